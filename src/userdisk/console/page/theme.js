// Light or dark: as the system says, or as chosen here, which this browser keeps.

const KEY = "userdisk-theme";
const CHOICES = ["system", "light", "dark"];

function stored() {
  try {
    return localStorage.getItem(KEY);
  } catch {
    return null; // a browser that keeps nothing
  }
}

function apply(choice) {
  document.documentElement.dataset.theme = choice;
  const button = document.getElementById("theme");
  if (!button) return;
  const prefix = document.createElement("span");
  prefix.textContent = "Theme: ";
  button.replaceChildren(prefix, choice);
}

let choice = CHOICES.includes(stored()) ? stored() : "system";
apply(choice);

/** Have the button go through the choices. */
export function themeButton(button) {
  apply(choice);
  button.addEventListener("click", () => {
    choice = CHOICES[(CHOICES.indexOf(choice) + 1) % CHOICES.length];
    try {
      localStorage.setItem(KEY, choice);
    } catch {
      // then it is for this page alone
    }
    apply(choice);
  });
}
