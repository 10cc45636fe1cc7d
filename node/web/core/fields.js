/** Names of order fields and states in the API that the page uses in more than one place. */

export const WORST_PRICE = "worst_price";
export const TRAILING_OFFSET = "trailing_offset";
export const DISPLAY_QUANTITY = "display_quantity";
export const LINKED_ORDER = "linked_order_id";
export const OCO_STOP = "oco_stop";

/** Status of an order that waits for its stop. */
export const UNTRIGGERED = "untriggered";

/**
 * An optional field of an order.
 * @param {import("./types.js").Order} order
 * @param {string} name
 * @returns {string | null}
 */
export function optional(order, name) {
  const value = /** @type {Record<string, unknown>} */ (/** @type {unknown} */ (order))[name];
  return typeof value === "string" ? value : null;
}
