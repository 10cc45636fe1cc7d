/** The ladder: price levels of both sides, with depth bars and the account's own orders in them. */

import { splitOrderId } from "../core/book.js";
import { Decimal, ZERO, digitsOf, mostDigits, padded } from "../core/decimal.js";
import { fitColumns, h, longest, select, setClass, setText } from "../core/dom.js";
import { shortId } from "../core/format.js";
import { drawer } from "../core/state.js";

/** @typedef {import("../core/types.js").Side} Side */
/** @typedef {import("./feed.js").MarketFeed} MarketFeed */

const ROWS = 13; // of a side
const HEADS = ["Price", "Quantity", "Total", "Own"];
const BOLD = 1.1; // width of a bold digit, in others
const POINT = "Point at a level to see whose orders it has.";

/**
 * One line of the ladder.
 * @typedef {object} Row
 * @property {HTMLTableRowElement} element
 * @property {HTMLButtonElement} price
 * @property {HTMLTableCellElement} quantity
 * @property {HTMLTableCellElement} total
 * @property {HTMLTableCellElement} own
 * @property {string} held price of the level on it, "" for none
 * @property {string} share width of its bar
 */

export class LadderView {
  /**
   * @param {MarketFeed} feed
   * @param {import("../core/types.js").Market} market
   * @param {import("../own/account.js").Account} account
   * @param {(side: Side, price: string) => void} pick a level was chosen; side of an order that takes it
   */
  constructor(feed, market, account, pick) {
    this.feed = feed;
    this.account = account;
    this.market = market;
    this.digits = { price: digitsOf(market.tick), quantity: 0 };
    this.asks = Array.from({ length: ROWS }, () => this.#row("sell", pick)).reverse();
    this.bids = Array.from({ length: ROWS }, () => this.#row("buy", pick));
    this.spread = h("td", { colspan: 4, class: "spread" });
    const heads = HEADS.map((text) => h("th", { scope: "col", class: "number" }, text));
    const body = h(
      "tbody",
      {},
      ...[...this.asks].reverse().map((row) => row.element),
      h("tr", { class: "middle" }, this.spread),
      ...this.bids.map((row) => row.element),
    );
    body.addEventListener("keydown", (event) => this.#key(event));
    for (const type of ["pointerover", "focusin"]) {
      body.addEventListener(type, (event) => this.#hover(event.target));
    }
    this.detail = h("p", { class: "detail", text: POINT });
    const scope = select(
      [
        ["network", "Whole network"],
        ["own", "This node alone"],
      ],
      "network",
      (value) => feed.setScope(value === "own" ? "own" : "network"),
    );
    scope.setAttribute("aria-label", "whose orders");
    this.table = h(
      "table",
      {},
      h("caption", { class: "unseen" }, `Order book of ${market.symbol}: asks above, bids below`),
      h("colgroup", {}, ...HEADS.map(() => h("col"))),
      h("thead", {}, h("tr", {}, ...heads)),
      body,
    );
    this.element = h(
      "section",
      { class: "panel ladder", "aria-label": "order book" },
      h("header", {}, h("h2", { text: "Book" }), scope),
      this.table,
      this.detail,
    );
    this.empty = false;
    this.draw = drawer(() => this.#draw());
    this.ends = [
      feed.changed.follow(this.draw),
      feed.trades.follow(this.draw),
      account.orders.follow(this.draw),
    ];
  }

  stop() {
    for (const end of this.ends) end();
  }

  /** @param {Side} side @param {(side: Side, price: string) => void} pick @returns {Row} */
  #row(side, pick) {
    const price = h("button", { type: "button", class: "level", tabindex: "-1" });
    const cells = ["quantity", "total", "own"].map((name) => h("td", { class: `number ${name}` }));
    const element = h("tr", { class: side, data: { side } }, h("td", { class: "number" }, price), ...cells);
    const row = { element, price, quantity: cells[0], total: cells[1], own: cells[2], held: "", share: "" };
    element.addEventListener("click", () => {
      if (row.held !== "") pick(side === "sell" ? "buy" : "sell", row.held);
    });
    return row;
  }

  /** All rows from top to bottom. */
  get #lines() {
    return [...[...this.asks].reverse(), ...this.bids];
  }

  /** @param {KeyboardEvent} event */
  #key(event) {
    const step = { ArrowDown: 1, ArrowUp: -1, PageDown: 5, PageUp: -5 }[event.key];
    if (step === undefined) return;
    event.preventDefault();
    const lines = this.#lines.filter((row) => row.held !== "");
    const at = lines.findIndex((row) => row.price === document.activeElement);
    lines[Math.max(0, Math.min(lines.length - 1, at + step))]?.price.focus();
  }

  /** @param {EventTarget | null} target */
  #hover(target) {
    const line = target instanceof Element ? target.closest("tr") : null;
    const row = this.#lines.find((each) => each.element === line);
    if (row !== undefined && row.held !== "") this.#describe(row);
  }

  /** @param {Row} row */
  #describe(row) {
    const side = row.element.dataset["side"] === "buy" ? this.feed.single.bids : this.feed.single.asks;
    /** @type {Map<string, {quantity: Decimal, orders: number}>} */
    const nodes = new Map();
    for (const { entry } of side.sorted.filter((held) => held.entry[1] === row.held)) {
      const name = entry[4] ? "this node" : shortId(splitOrderId(entry[0])[0]);
      const known = nodes.get(name) ?? { quantity: ZERO, orders: 0 };
      nodes.set(name, {
        quantity: known.quantity.plus(Decimal.of(entry[2])),
        orders: known.orders + 1,
      });
    }
    const texts = [...nodes].map(
      ([name, { quantity, orders }]) => `${name} ${quantity}${orders > 1 ? ` in ${orders} orders` : ""}`,
    );
    setText(this.detail, `${row.held}: ${texts.join(", ") || "beyond the single orders on show"}`);
  }

  /** @returns {Map<string, Decimal>} the account's displayed quantities, by side and price */
  #own() {
    /** @type {Map<string, Decimal>} */
    const own = new Map();
    for (const order of this.account.orders.value.values()) {
      if (order.market !== this.market.symbol || order.price === null || order.status !== "open") continue;
      const at = `${order.side} ${order.price}`;
      own.set(at, (own.get(at) ?? ZERO).plus(Decimal.of(order.remaining)));
    }
    return own;
  }

  #draw() {
    const { book } = this.feed;
    const own = this.#own();
    const totals = [this.#totals(book.bids.sorted), this.#totals(book.asks.sorted)];
    const shown = [...book.bids.sorted.slice(0, ROWS), ...book.asks.sorted.slice(0, ROWS)];
    this.digits.quantity = mostDigits(shown.map(({ entry }) => entry[1]));
    const most = Math.max(...totals.map((list) => list[list.length - 1]?.toNumber() ?? 0));
    this.#side(this.bids, book.bids, totals[0], own, most);
    this.#side(this.asks, book.asks, totals[1], own, most);
    this.#fit();
    const [bid, ask] = [book.bids.sorted[0]?.price, book.asks.sorted[0]?.price];
    const last = this.feed.trades.value[0];
    const spread = bid && ask ? `spread ${ask.minus(bid).toFixed(this.digits.price)}` : "no spread";
    setText(this.spread, `${spread} · last ${last ? padded(last.price, this.digits.price) : "–"}`);
    this.spread.className = `spread ${last ? last.side : ""}`;
    this.element.dataset["checksum"] = String(book.checksum);
    this.element.dataset["sequence"] = String(book.sequence);
    this.element.dataset["levels"] = String(book.bids.sorted.length + book.asks.sorted.length);
    this.#keepFocusable();
    this.#describeEmpty(book.time !== "" && bid === undefined && ask === undefined);
  }

  /** Give each column the room that its numbers need. Own orders, also hidden ones, rarely need more. */
  #fit() {
    const texts = (/** @type {"price" | "quantity" | "total" | "own"} */ name) =>
      longest(this.#lines.map((row) => row[name].textContent ?? ""));
    const [price, quantity, total] = [texts("price"), texts("quantity"), texts("total")];
    const own = Math.max(quantity, texts("own")) * BOLD;
    const heads = HEADS.map((text) => text.length);
    fitColumns(this.table, [price, quantity, total, own].map((length, at) => Math.max(length, heads[at])));
  }

  /** A hint where there are no orders yet. @param {boolean} empty */
  #describeEmpty(empty) {
    if (empty === this.empty) return;
    this.empty = empty;
    const more = this.account.model.isOperator ? ", or connect this node to others under Network" : "";
    setText(this.detail, empty ? `The book is empty: place the first order${more}.` : POINT);
  }

  /** @param {{entry: import("../core/types.js").Level}[]} sorted */
  #totals(sorted) {
    let total = ZERO;
    return sorted.slice(0, ROWS).map(({ entry }) => (total = total.plus(Decimal.of(entry[1]))));
  }

  /**
   * @param {Row[]} rows
   * @param {{side: Side, sorted: {price: Decimal, entry: import("../core/types.js").Level}[]}} half
   * @param {Decimal[]} totals
   * @param {Map<string, Decimal>} own
   * @param {number} most
   */
  #side(rows, half, totals, own, most) {
    rows.forEach((row, at) => {
      const level = half.sorted[at];
      const mine = level && own.get(`${half.side} ${level.entry[0]}`);
      setClass(row.element, "void", level === undefined);
      setClass(row.element, "mine", mine !== undefined);
      row.held = level?.entry[0] ?? "";
      row.price.hidden = level === undefined;
      if (level === undefined) {
        for (const cell of [row.price, row.quantity, row.total, row.own]) setText(cell, "");
        return;
      }
      setText(row.price, level.price.toFixed(this.digits.price));
      setText(row.quantity, Decimal.of(level.entry[1]).toFixed(this.digits.quantity));
      setText(row.total, totals[at].toFixed(this.digits.quantity));
      setText(row.own, mine ? mine.toString() : "");
      const share = `${most > 0 ? Math.round((totals[at].toNumber() / most) * 100) : 0}%`;
      if (row.share !== share) {
        row.share = share;
        row.element.style.setProperty("--depth", share);
      }
    });
  }

  /** One level at a time can be reached with Tab; arrows lead to the others. */
  #keepFocusable() {
    const lines = this.#lines.filter((row) => row.held !== "");
    const held = lines.find((row) => row.price === document.activeElement) ?? lines[0];
    for (const row of this.#lines) row.price.tabIndex = row === held ? 0 : -1;
  }

  /** Put the focus on the best level of a side. */
  focus() {
    (this.asks.find((row) => row.held !== "") ?? this.bids[0]).price.focus();
  }
}
