// The launcher's events, for as long as they are wanted: a stream that ended begins anew.

const FIRST = 1000; // milliseconds until the next try; doubles
const LONGEST = 8000;

export class Events {
  #source = null;
  #timer = 0;
  #delay = FIRST;

  /** `opened` is called when the stream is there: what happened before it was not told. */
  constructor(url, { opened, told, lost }) {
    this.url = url;
    this.opened = opened;
    this.told = told;
    this.lost = lost;
    this.#connect();
  }

  #connect() {
    const source = new EventSource(this.url);
    this.#source = source;
    source.addEventListener("open", () => {
      this.#delay = FIRST;
      this.opened();
    });
    source.addEventListener("message", ({ data }) => this.told(JSON.parse(data)));
    source.addEventListener("error", () => {
      source.close();
      this.lost();
      this.#timer = setTimeout(() => this.#connect(), this.#delay);
      this.#delay = Math.min(this.#delay * 2, LONGEST);
    });
  }

  end() {
    clearTimeout(this.#timer);
    this.#source.close();
  }
}
