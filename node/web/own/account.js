/** Orders, fills and balances of the account in view, from the node's streams. */

import { Cell, Scope } from "../core/state.js";

/** @typedef {import("../core/types.js").Order} Order */
/** @typedef {import("../core/types.js").Fill} Fill */
/** @typedef {import("../core/types.js").Balance} Balance */
/** @typedef {import("../core/types.js").Fees} Fees */

const KEPT = 200; // fills on show
const LATELY = 100; // orders that ended

export class Account {
  #scope = new Scope();

  /** @param {import("../core/model.js").Model} model */
  constructor(model) {
    this.model = model;
    /** Open orders by id. */
    this.orders = new Cell(/** @type {Map<string, Order>} */ (new Map()));
    /** Newest first. */
    this.fills = new Cell(/** @type {Fill[]} */ ([]));
    this.balances = new Cell(/** @type {Map<string, Balance>} */ (new Map()));
    this.fees = new Cell(/** @type {Map<string, Fees>} */ (new Map()));
    /** Counts orders that ended, for views of the history. */
    this.ended = new Cell(0);
    /** Orders that ended lately, by id. */
    this.lately = /** @type {Map<string, Order>} */ (new Map());
  }

  /** Follow the account that the model names. Call again when it is another one. */
  follow() {
    this.stop();
    this.#scope = new Scope();
    const { model } = this;
    if (!model.canRead) return;
    void this.#fees();
    this.#streams();
  }

  stop() {
    this.#scope.end();
    this.orders.value = new Map();
    this.fills.value = [];
    this.balances.value = new Map();
  }

  async #fees() {
    const scope = this.#scope;
    /** @type {Fees[]} */
    const fees = await this.model.api.get("/v1/fees", { account: this.model.account.value });
    if (!scope.ended) this.fees.value = new Map(fees.map((row) => [row.market, row]));
  }

  #streams() {
    const { stream } = this.model;
    const account = this.model.account.value ?? undefined;
    const follow = (/** @type {string} */ channel, /** @type {(m: any) => void} */ take) => {
      this.#scope.add(stream.subscribe({ channel, account, conflate_ms: 200 }, take));
    };
    follow("orders", (message) => this.#takeOrders(message));
    follow("fills", (message) => this.#takeFills(message));
    follow("balances", (message) => {
      if (message.event === "balances_snapshot") this.balances.value.clear();
      for (const balance of message.balances) this.balances.value.set(balance.asset, balance);
      this.balances.changed();
    });
  }

  /** @param {{event: string, orders: Order[]}} message */
  #takeOrders(message) {
    const orders = this.orders.value;
    if (message.event === "orders_snapshot") orders.clear();
    let ended = 0;
    for (const order of message.orders) {
      if (isDone(order)) {
        orders.delete(order.id);
        ended++;
        this.lately.set(order.id, order);
      } else orders.set(order.id, order);
    }
    this.orders.changed();
    for (const id of [...this.lately.keys()].slice(0, -LATELY)) this.lately.delete(id);
    if (ended > 0) this.ended.value += ended;
  }

  /** @param {{event: string, fills: Fill[]}} message */
  #takeFills(message) {
    const newest = message.event === "fills_snapshot" ? message.fills : [...message.fills].reverse();
    const before = message.event === "fills_snapshot" ? [] : this.fills.value;
    this.fills.value = [...newest, ...before].slice(0, KEPT);
  }
}

/** @param {Order} order */
export function isDone(order) {
  return order.status === "filled" || order.status === "cancelled";
}
