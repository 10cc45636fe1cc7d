/** Views other than the market's, by name. */

import { h } from "../core/dom.js";
import { accountsView } from "./accounts.js";
import { betweenView } from "./between.js";
import { deskView } from "./desk.js";
import { healthView } from "./health.js";
import { networkView } from "./network.js";
import { servicesView } from "./services.js";

/** @typedef {{element: HTMLElement, stop: () => void}} Part */

/** @type {Record<string, (model: import("../core/model.js").Model) => Part>} */
const MADE = {
  network: networkView,
  services: servicesView,
  between: betweenView,
  health: healthView,
  accounts: accountsView,
  desk: deskView,
};

/**
 * @param {string} name
 * @param {import("../core/model.js").Model} model
 * @returns {Part}
 */
export function otherView(name, model) {
  const make = MADE[name];
  if (make === undefined) return { element: h("p", { class: "panel", text: `This page has no view ${name}.` }), stop: () => {} };
  return make(model);
}
