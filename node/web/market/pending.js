/**
 * Orders whose answer has not come, kept in the tab's own storage: after a reload the page looks them up by
 * their client id, and shows their outcome. They are never sent again.
 */

const STORED = "exchange-node-pending"; // in sessionStorage, which ends with its tab

/**
 * @typedef {object} PendingOrder
 * @property {string} client_id
 * @property {string} node_id of the node that it was sent to
 * @property {number | null} account of the session
 * @property {string | null} acted_for account that the operator acted for
 * @property {string} text the order as a sentence
 */

/** @typedef {Pick<Storage, "getItem" | "setItem" | "removeItem">} Store */

export class PendingOrders {
  /** @param {Store} [store] */
  constructor(store = sessionStorage) {
    this.store = store;
  }

  /** @returns {PendingOrder[]} */
  all() {
    try {
      const found = JSON.parse(this.store.getItem(STORED) ?? "[]");
      return Array.isArray(found) ? found : [];
    } catch {
      return [];
    }
  }

  /** @param {PendingOrder} order */
  add(order) {
    this.#write([...this.all().filter((each) => each.client_id !== order.client_id), order]);
  }

  /** @param {string} clientId */
  forget(clientId) {
    this.#write(this.all().filter((order) => order.client_id !== clientId));
  }

  clear() {
    this.store.removeItem(STORED);
  }

  /** @param {PendingOrder[]} orders */
  #write(orders) {
    if (orders.length === 0) this.clear();
    else this.store.setItem(STORED, JSON.stringify(orders));
  }
}

/**
 * The orders that were sent to this node in this session.
 * @param {PendingOrders} pending
 * @param {import("../core/types.js").Session} session
 */
export function pendingOf(pending, session) {
  return pending.all().filter((order) => order.node_id === session.node_id && order.account === session.account);
}
