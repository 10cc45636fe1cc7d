/** Views other than the market's, by name. */

import { h } from "../core/dom.js";

/** @typedef {{element: HTMLElement, stop: () => void}} Part */

/** @type {Record<string, (model: import("../core/model.js").Model) => Part>} */
const MADE = {};

/**
 * @param {string} name
 * @param {import("../core/model.js").Model} model
 * @returns {Part}
 */
export function otherView(name, model) {
  const make = MADE[name];
  if (make === undefined) return { element: h("p", { class: "panel", text: "not here" }), stop: () => {} };
  return make(model);
}
