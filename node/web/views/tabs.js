/** Tabs as the ARIA authoring practices have them: one is reached with Tab, arrows lead to the others. */

import { freshId, h, setText } from "../core/dom.js";

/** @typedef {{element: HTMLElement, stop: () => void}} Part */

export class Tabs {
  /** @type {Part | null} */
  #part = null;
  #chosen = -1;

  /**
   * @param {string} label
   * @param {[title: string, make: () => Part][]} tabs each is made when it is chosen
   */
  constructor(label, tabs) {
    this.tabs = tabs;
    this.panel = h("div", { role: "tabpanel", id: freshId() });
    this.buttons = tabs.map(([title], at) =>
      h(
        "button",
        {
          type: "button",
          role: "tab",
          id: freshId(),
          "aria-controls": this.panel.id,
          on: { click: () => this.choose(at), keydown: (/** @type {KeyboardEvent} */ e) => this.#key(e) },
        },
        title,
      ),
    );
    const list = h("div", { role: "tablist", "aria-label": label }, ...this.buttons);
    this.element = h("div", { class: "tabs" }, list, this.panel);
    this.choose(0);
  }

  /** @param {number} at @param {string} text */
  label(at, text) {
    setText(this.buttons[at], text);
  }

  /** @param {number} at */
  choose(at) {
    if (at === this.#chosen) return;
    this.#chosen = at;
    this.#part?.stop();
    this.buttons.forEach((each, index) => {
      each.setAttribute("aria-selected", String(index === at));
      each.tabIndex = index === at ? 0 : -1;
    });
    this.panel.setAttribute("aria-labelledby", this.buttons[at].id);
    this.#part = this.tabs[at][1]();
    this.panel.replaceChildren(this.#part.element);
  }

  focus() {
    this.buttons[this.#chosen].focus();
  }

  stop() {
    this.#part?.stop();
  }

  /** @param {KeyboardEvent} event */
  #key(event) {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (step === undefined) return;
    event.preventDefault();
    const count = this.buttons.length;
    this.choose((this.#chosen + step + count) % count);
    this.focus();
  }
}
