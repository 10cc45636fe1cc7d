/** Banner with current problems; it disappears with them. */

import { fill, h } from "../core/dom.js";

const OFF = 5000; // ms that clocks may differ; the header that is compared has whole seconds
const MENDED = 8000; // ms that a mended fault is shown
const STALE = 9000; // ms without any message, of which a live connection has one every few seconds

/**
 * @param {import("../core/model.js").Model} model
 * @param {HTMLElement} host
 */
export function followTroubles(model, host) {
  model.troubles.follow((troubles) => {
    fill(host, ...[...troubles].map(([name, text]) => h("p", { data: { trouble: name } }, text)));
  });
  model.stream.connection.follow((state) => {
    const away = state === "away";
    document.body.classList.toggle("away", away);
    model.trouble("away", away ? "The node is away: what you see is old. Coming back by itself …" : null);
  });
  /** @type {number | undefined} */
  let timer;
  model.stream.faults.follow((count) => {
    if (count === 0) return;
    model.trouble("fault", "A book did not fit its checksum or order, and was loaded anew.");
    clearTimeout(timer);
    timer = setTimeout(() => model.trouble("fault", null), MENDED);
  });
  setInterval(() => {
    const { stream, api } = model;
    const silent = performance.now() - stream.heard;
    const stale = stream.connection.value === "live" && silent > STALE && !document.hidden;
    model.trouble("stale", stale ? `Nothing came from the node for ${Math.round(silent / 1000)} s.` : null);
    const offset = api.clockOffset ?? 0;
    const off = Math.abs(offset) > OFF;
    const seconds = Math.round(Math.abs(offset) / 1000);
    model.trouble(
      "clock",
      off ? `This device's clock is ${seconds} s ${offset > 0 ? "behind" : "ahead of"} the node's: set it right.` : null,
    );
  }, 1000);
}
