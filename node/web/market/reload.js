/** After a reload: outcome of orders whose answer never came. */

import { Unanswered, explain } from "../core/api.js";
import { toast } from "../core/dom.js";
import { outcome } from "../own/texts.js";
import { PendingOrders, pendingOf } from "./pending.js";
import { lookUp } from "./submit.js";

/** @param {import("../core/model.js").Model} model */
export function lookUpPending(model) {
  const session = model.session.value;
  if (session === null) return;
  const pending = new PendingOrders();
  for (const order of pendingOf(pending, session)) void settle(model, pending, order);
}

/**
 * @param {import("../core/model.js").Model} model
 * @param {PendingOrders} pending
 * @param {import("./pending.js").PendingOrder} order
 */
async function settle(model, pending, order) {
  toast(`The answer to an order was lost: ${order.text}. Looking it up …`);
  try {
    const found = await lookUp(model.api, order.client_id, order.acted_for);
    pending.forget(order.client_id);
    toast(outcome(found), found.status === "cancelled" ? "bad" : "good");
  } catch (error) {
    if (!(error instanceof Unanswered)) pending.forget(order.client_id);
    toast(`${order.text}: ${explain(error)}`, "bad");
  }
}
