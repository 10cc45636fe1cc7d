/** Parts that views share: panels, facts, badges. */

import { explain } from "../core/api.js";
import { fill, h } from "../core/dom.js";

/**
 * A panel with a heading.
 * @param {string} title
 * @param {string} className
 * @param {...import("../core/dom.js").Child} children
 */
export function panel(title, className, ...children) {
  return h(
    "section",
    { class: `panel ${className}`, "aria-label": title },
    h("header", {}, h("h2", { text: title })),
    ...children,
  );
}

/** Figures with their names; drawn anew with `show`. */
export class Facts {
  constructor() {
    this.element = h("dl", { class: "facts" });
  }

  /** @param {[name: string, value: string][]} facts */
  show(facts) {
    if (facts.length !== this.element.children.length) {
      fill(this.element, ...facts.map(([name]) => h("div", {}, h("dt", {}, name), h("dd"))));
    }
    facts.forEach(([name, value], at) => {
      const [term, definition] = this.element.children[at].children;
      if (term.textContent !== name) term.textContent = name;
      if (definition.textContent !== value) definition.textContent = value;
      definition.className = value.length > 13 ? "small" : "";
    });
  }
}

/**
 * @param {string} text
 * @param {"good" | "bad" | "mid"} mood
 */
export function badge(text, mood) {
  return h("span", { class: `badge ${mood}`, text });
}

/**
 * A line for load errors of a view.
 * @returns {{element: HTMLElement, run: (work: () => Promise<void>) => Promise<void>}}
 */
export function guarded() {
  const element = h("p", { class: "problem", role: "status" });
  return {
    element,
    run: async (work) => {
      try {
        await work();
        element.textContent = "";
      } catch (error) {
        element.textContent = explain(error);
      }
    },
  };
}
