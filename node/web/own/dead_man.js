/**
 * The dead man's switch: while it is on, this page sends a sign of life every few seconds; when it stops
 * saying so, the node cancels all open orders of the account. The node keeps the time, also over restarts.
 */

import { explain } from "../core/api.js";
import { h, setText, toast } from "../core/dom.js";

const TIMEOUT = 60_000; // ms of silence before orders are cancelled
const RENEW = 15_000;

/** Survives a change of the view; when the page closes, the switch cancels. */
let on = false;

export class DeadMan {
  /** @param {import("../core/model.js").Model} model */
  constructor(model) {
    this.model = model;
    this.box = h("input", { type: "checkbox", checked: on });
    this.note = h("span", { class: "muted" });
    this.box.addEventListener("change", () => void this.#switch(this.box.checked));
    this.element = h(
      "label",
      { class: "check", title: "Cancel all open orders when this page has been silent for a minute" },
      this.box,
      "Dead man's switch",
      this.note,
    );
    this.timer = setInterval(() => void (on && this.#say(TIMEOUT)), RENEW);
    if (on) void this.#say(TIMEOUT);
  }

  stop() {
    clearInterval(this.timer);
  }

  /** @param {boolean} wanted */
  async #switch(wanted) {
    on = wanted && (await this.#say(TIMEOUT));
    if (!wanted) await this.#say(0);
    this.box.checked = on;
    toast(on ? "All open orders end when this page is silent for 60 s." : "The dead man's switch is off.");
  }

  /** @param {number} timeout ms; 0 ends it @returns {Promise<boolean>} */
  async #say(timeout) {
    try {
      const parameters = { account: this.model.account.value };
      await this.model.api.post("/v1/orders/cancel-after", { timeout_ms: timeout }, parameters);
      setText(this.note, timeout > 0 ? " 60 s" : "");
      return true;
    } catch (error) {
      toast(`The dead man's switch was not set: ${explain(error)}`, "bad");
      return false;
    }
  }
}
