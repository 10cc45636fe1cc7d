/** Orders as sentences. */

import { TRAILING_OFFSET, UNTRIGGERED, optional } from "../core/fields.js";
import { words } from "../core/format.js";

/** @typedef {import("../core/types.js").Order} Order */

/** Why an order ended, for people. */
const REASONS = /** @type {Record<string, string>} */ ({
  ioc: "the quantity not filled at once was cancelled",
  fok: "not all of it could be traded at once",
  post_only: "it would have traded at once",
  no_liquidity: "the book had nothing more for it",
  self_trade: "it would have traded with an own order",
  expired: "its time was over",
  oco: "the other one of its pair traded",
  dead_man: "the dead man's switch cancelled it",
  credit: "waits: the credit limit with a node is reached",
});

/** @param {Order} order e.g. "limit 30000, stop 29000" */
export function terms(order) {
  const offset = optional(order, TRAILING_OFFSET);
  const parts = [order.price === null ? words(order.type) : `${words(order.type)} ${order.price}`];
  if (order.stop !== null) parts.push(`stop ${order.stop}`);
  if (offset !== null) parts.push(`trailing by ${offset}`);
  return parts.join(", ");
}

/** @param {Order} order */
export function statusText(order) {
  if (order.status === UNTRIGGERED) return "waits for its stop";
  if (order.status === "pending") {
    const until = order.pending_until?.slice(11, 19);
    return "pending: other nodes are asked" + (until ? `, decided by ${until} UTC if they stay connected` : "");
  }
  const reason = REASONS[order.reason];
  return reason === undefined ? order.status : `${order.status}: ${reason}`;
}

/** @param {Order} order */
export function flags(order) {
  return [
    order.tif === "gtc" ? "" : order.tif.toUpperCase(),
    order.post_only ? "post-only" : "",
    order.hidden ? "hidden" : "",
    order.reduce_only ? "reduce-only" : "",
  ]
    .filter(Boolean)
    .join(" ");
}

/** @param {Order} order its outcome, as one sentence */
export function outcome(order) {
  const head = `Order ${order.number}: ${order.side} ${order.quantity} ${order.market}, ${terms(order)}`;
  const traded =
    order.filled === "0" ? "" : `; ${order.filled} traded at ${order.average_price ?? "?"} on average`;
  return `${head}: ${statusText(order)}${traded}`;
}
