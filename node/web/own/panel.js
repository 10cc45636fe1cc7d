/** The account in tabs: open orders, fills, order history, balances, ledger. */

import { explain } from "../core/api.js";
import { Table, button, confirm, h, setText, toast } from "../core/dom.js";
import { optional } from "../core/fields.js";
import { moment, shortId } from "../core/format.js";
import { Scope, drawer } from "../core/state.js";
import { Tabs } from "../views/tabs.js";
import { DeadMan } from "./dead_man.js";
import { ordersTable } from "./orders.js";
import { statusText, terms } from "./texts.js";

/** @typedef {import("../core/types.js").Order} Order */
/** @typedef {import("../core/types.js").Fill} Fill */
/** @typedef {import("../core/types.js").Balance} Balance */

export class OwnPanel {
  #scope = new Scope();

  /**
   * @param {import("../core/model.js").Model} model
   * @param {import("./account.js").Account} account
   */
  constructor(model, account) {
    this.model = model;
    this.account = account;
    this.whose = h("span", { class: "muted" });
    this.tabs = new Tabs("own", [
      ["Open orders", () => this.#open()],
      ["Fills", () => this.#fills()],
      ["Order history", () => this.#history()],
      ["Balances", () => this.#balances()],
      ["Ledger", () => this.#ledger()],
    ]);
    const actions = h("div", { class: "tools" });
    if (model.canTrade) {
      const deadMan = new DeadMan(model);
      this.#scope.add(() => deadMan.stop());
      actions.append(deadMan.element, button("Cancel all", () => void this.#cancelAll()));
    }
    this.element = h(
      "section",
      { class: "panel own", "aria-label": "own orders and money" },
      h("header", {}, h("h2", { text: "Own" }), this.whose, actions),
      this.tabs.element,
    );
    this.#scope.add(
      model.account.follow(() => {
        const name = model.account.value ?? model.session.value?.account_name ?? "the house";
        setText(this.whose, name);
      }),
    );
    const count = drawer(() => this.tabs.label(0, `Open orders (${account.orders.value.size})`));
    this.#scope.add(account.orders.follow(count));
  }

  stop() {
    this.tabs.stop();
    this.#scope.end();
  }

  focus() {
    this.tabs.focus();
  }

  async #cancelAll() {
    const count = this.account.orders.value.size;
    if (count === 0) {
      toast("There are no open orders.");
      return;
    }
    if (!(await confirm("Cancel all open orders?", [h("p", {}, `${count} orders in all markets.`)], "Cancel them"))) return;
    try {
      const parameters = { all: true, account: this.model.account.value };
      const cancelled = await this.model.api.send("DELETE", "/v1/orders", parameters);
      toast(`${cancelled.length} orders were cancelled.`, "good");
    } catch (error) {
      toast(explain(error), "bad");
    }
  }

  #open() {
    return ordersTable(this.model, this.account);
  }

  #fills() {
    /** @type {Table<Fill>} */
    const table = new Table(
      "Own fills, newest first",
      [
        { title: "Time", text: (f) => moment(f.time) },
        { title: "Market", text: (f) => f.market },
        { title: "Side", text: (f) => f.side, class: (f) => f.side },
        { title: "Quantity", text: (f) => f.quantity, numeric: true },
        { title: "Price", text: (f) => f.price, numeric: true },
        { title: "Fee", text: (f) => (f.fee === "0" ? "0" : `${f.fee} ${f.fee_asset}`), numeric: true },
        { title: "As", text: (f) => f.role },
        { title: "With", text: (f) => shortId(f.counterparty) },
        { title: "Order", text: (f) => f.order_id.slice(f.order_id.lastIndexOf("-") + 1), numeric: true },
      ],
      (f) => `${f.id} ${f.role}`,
      "No fills yet.",
    );
    const end = this.account.fills.follow(drawer(() => table.update(this.account.fills.value)));
    return { element: table.element, stop: end };
  }

  #history() {
    /** @type {Table<Order>} */
    const table = new Table(
      "Orders by their last change, newest first",
      [
        { title: "Changed", text: (o) => moment(optional(o, "updated") ?? o.created) },
        { title: "Order", text: (o) => String(o.number), numeric: true },
        { title: "Market", text: (o) => o.market },
        { title: "Side", text: (o) => o.side, class: (o) => o.side },
        { title: "Terms", text: terms },
        { title: "Quantity", text: (o) => o.quantity, numeric: true },
        { title: "Filled", text: (o) => o.filled, numeric: true },
        { title: "Average", text: (o) => o.average_price ?? "–", numeric: true },
        { title: "State", text: statusText },
      ],
      (o) => o.id,
      "No orders yet.",
    );
    return this.#listed(table, "/v1/orders", { open: false, limit: 200 });
  }

  #balances() {
    /** @type {Table<Balance>} */
    const table = new Table(
      "Balances",
      [
        { title: "Asset", text: (b) => b.asset },
        { title: "Total", text: (b) => b.total, numeric: true },
        { title: "Held by orders", text: (b) => b.held, numeric: true },
        { title: "Available", text: (b) => b.available, numeric: true },
      ],
      (b) => b.asset,
      "No balances.",
    );
    const draw = drawer(() => {
      table.update([...this.account.balances.value.values()].sort((a, b) => (a.asset < b.asset ? -1 : 1)));
    });
    return { element: table.element, stop: this.account.balances.follow(draw) };
  }

  #ledger() {
    /** @typedef {{transaction: number, time: string, asset: string, amount: string, balance: string, kind: string, reference: string}} Posting */
    /** @type {Table<Posting>} */
    const table = new Table(
      "Ledger, newest first",
      [
        { title: "Time", text: (p) => moment(p.time) },
        { title: "Kind", text: (p) => p.kind },
        { title: "Amount", text: (p) => p.amount, class: (p) => (p.amount.startsWith("-") ? "down" : "up"), numeric: true },
        { title: "Asset", text: (p) => p.asset },
        { title: "Balance", text: (p) => p.balance, numeric: true },
        { title: "Reference", text: (p) => p.reference },
      ],
      (p) => `${p.transaction} ${p.asset} ${p.amount} ${p.balance}`,
      "Nothing in the ledger.",
    );
    return this.#listed(table, "/v1/ledger", { limit: 200 });
  }

  /**
   * A table that is loaded again after changes of the account.
   * @template R
   * @param {Table<R>} table @param {string} path @param {Record<string, string | number | boolean>} parameters
   */
  #listed(table, path, parameters) {
    const scope = new Scope();
    const load = async () => {
      try {
        const rows = await this.model.api.get(path, { ...parameters, account: this.model.account.value });
        if (!scope.ended) table.update(rows);
      } catch (error) {
        setText(table.empty, explain(error));
      }
    };
    const now = scope.every(5000, load);
    scope.add(this.account.ended.follow(now));
    return { element: table.element, stop: () => scope.end() };
  }
}
