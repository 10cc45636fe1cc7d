/** Preview of an order as a list below the ticket. */

import { Decimal } from "../core/decimal.js";
import { h, setClass, setText } from "../core/dom.js";
import { shortId } from "../core/format.js";

/** @typedef {import("./preview.js").Preview} Preview */

const LINES = /** @type {const} */ ([
  ["trades", "Trades now"],
  ["average", "Average price"],
  ["worst", "Worst price"],
  ["rest", "Rests"],
  ["fee", "Fee"],
  ["held", "Held"],
  ["after", "Available after"],
  ["nodes", "Takes from"],
]);

/** @param {Decimal} value @param {number} digits at most */
function short(value, digits) {
  return value.toStep(new Decimal(1n, digits), "down").toString();
}

export class PreviewList {
  constructor() {
    /** @type {Map<string, HTMLElement>} */
    this.values = new Map();
    const rows = LINES.flatMap(([name, label]) => {
      const value = h("dd", { data: { preview: name } });
      this.values.set(name, value);
      return [h("dt", {}, label), value];
    });
    this.warnings = h("p", { class: "warning" });
    this.element = h("div", { class: "preview", "aria-label": "what the order would do", role: "group" }, h("dl", {}, ...rows), this.warnings);
  }

  /** @param {Preview | null} found @param {import("../core/types.js").Market} market */
  show(found, market) {
    const texts = found === null ? {} : describe(found, market);
    for (const [name, value] of this.values) setText(value, texts[name] ?? "–");
    setText(this.warnings, found === null ? "" : found.warnings.map((w) => `Note: ${w}.`).join(" "));
    setClass(this.element, "idle", found === null);
  }
}

/**
 * @param {Preview} found @param {import("../core/types.js").Market} market
 * @returns {Record<string, string>}
 */
function describe(found, market) {
  const { base, quote } = market;
  const when = found.waits ? " when its stop is reached in this book" : "";
  return {
    trades: found.filled.isZero ? `nothing${when}` : `${found.filled} ${base}${when}`,
    average: found.average === null ? "–" : `${short(found.average, 8)} ${quote}`,
    worst: found.worst === null ? "any" : `${found.worst} ${quote}`,
    rest: found.rest.isZero ? "nothing" : `${found.rest} ${base}`,
    fee: found.fee.isZero ? "none" : `${found.fee} ${found.feeAsset}`,
    held: found.held === null ? "nothing: the house" : `${found.held} ${found.heldAsset}`,
    after: found.after.map(({ asset, amount }) => `${amount} ${asset}`).join(", ") || "no limit: the house",
    nodes: nodesText(found, base),
  };
}

/** @param {Preview} found @param {string} base */
function nodesText(found, base) {
  const parts = found.nodes.map(({ node, quantity, doubtful }) => {
    return `${shortId(node)} ${quantity}${doubtful ? " (unreliable, see Network)" : ""}`;
  });
  if (found.unattributed.isPositive) parts.push(`others ${found.unattributed}`);
  return parts.length > 0 ? `${parts.join(", ")} ${base}` : "nobody";
}
