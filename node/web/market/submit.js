/**
 * Sending an order so that it is placed once. Every order has a client id. When the answer is lost, the
 * order is looked up by its id until the node answers; it is sent again on request only.
 */

import { Refused, Unanswered } from "../core/api.js";

/** @typedef {import("../core/types.js").Order} Order */

/** The node does not have the order. Sending it again with the same client id cannot place two. */
export class NotPlaced extends Error {}

/** Random, and works without a secure context (`randomUUID` does not). */
export function newClientId() {
  const raw = crypto.getRandomValues(new Uint8Array(12));
  return `web-${[...raw].map((byte) => byte.toString(16).padStart(2, "0")).join("")}`;
}

const FIRST_DELAY = 250; // ms between two look-ups; doubles
const LAST_DELAY = 4000;
const LOOK_UPS = 60;
const SURE = 3; // look-ups in a row that do not find it: it may have been on its way at the first

/**
 * The parts of `Api` that are used.
 * @typedef {object} Sender
 * @property {(path: string, body: unknown, parameters: Record<string, string | null>) => Promise<any>} post
 * @property {(path: string, parameters: Record<string, string | null>) => Promise<any>} get
 */

/**
 * Place an order; returns it as the node has it.
 * @param {Sender} api
 * @param {Record<string, string | number | boolean>} request with `client_id`
 * @param {string | null} account for the operator: the account
 * @param {(text: string) => void} tell called when the answer is lost
 * @param {(ms: number) => Promise<void>} [sleep]
 * @returns {Promise<Order>}
 * @throws {Refused | NotPlaced | Unanswered}
 */
export async function place(api, request, account, tell, sleep = pause) {
  try {
    return await api.post("/v1/orders", request, { account });
  } catch (error) {
    // With a failed disk the node does not know itself before its next start.
    const unknown = error instanceof Refused && error.code === "storage_failed";
    if (!unknown && !(error instanceof Unanswered)) throw error;
  }
  tell("The answer was lost. Looking the order up by its client id …");
  return lookUp(api, String(request["client_id"]), account, sleep);
}

/**
 * Outcome of an order whose answer did not come.
 * @param {Sender} api @param {string} clientId @param {string | null} account
 * @param {(ms: number) => Promise<void>} [sleep]
 * @returns {Promise<Order>}
 * @throws {Refused | NotPlaced | Unanswered}
 */
export async function lookUp(api, clientId, account, sleep = pause) {
  let [delay, missing] = [FIRST_DELAY, 0];
  for (let tries = 0; tries < LOOK_UPS && missing < SURE; tries++) {
    await sleep(delay);
    try {
      return await api.get(`/v1/orders/by-client-id/${encodeURIComponent(clientId)}`, { account });
    } catch (error) {
      if (error instanceof Refused && error.status === 404) missing++;
      else if (error instanceof Refused && error.status < 500) throw error;
      else delay = Math.min(delay * 2, LAST_DELAY);
    }
  }
  if (missing >= SURE) {
    throw new NotPlaced("the node does not have this order: send it again if you still want it");
  }
  throw new Unanswered("look at your open orders before sending it again");
}

/** @param {number} ms @returns {Promise<void>} */
function pause(ms) {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
