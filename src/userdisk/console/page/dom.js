// Elements from names, properties and text. Text is never markup.

/** An element; `properties` are attributes, functions among them listeners ("click": ...). */
export function element(name, properties = {}, ...children) {
  return filled(document.createElement(name), properties, children);
}

const SVG = "http://www.w3.org/2000/svg";

/** The same for SVG. */
export function drawing(name, properties = {}, ...children) {
  return filled(document.createElementNS(SVG, name), properties, children);
}

function filled(made, properties, children) {
  for (const [key, value] of Object.entries(properties)) {
    if (typeof value === "function") made.addEventListener(key, value);
    else if (value === true) made.setAttribute(key, "");
    else if (value !== false && value != null) made.setAttribute(key, value);
  }
  made.append(...children.filter((child) => child != null));
  return made;
}

/** Change text only where it is another: what a reader has selected stays. */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** Change an attribute only where it is another. */
export function setAttribute(node, name, value) {
  if (node.getAttribute(name) !== value) node.setAttribute(name, value);
}

/** The element with this id. */
export const byId = (id) => document.getElementById(id);
