/** The tape: public trades, newest first. */

import { fitColumns, h, longest, setText } from "../core/dom.js";
import { digitsOf, mostDigits, padded } from "../core/decimal.js";
import { clock, shortId } from "../core/format.js";
import { drawer } from "../core/state.js";

const ROWS = 40;
const HEADS = ["Price", "Quantity", "Time", "Maker"];
const LETTER = 1.15; // width of a letter of an id, in digits

export class Tape {
  /** @param {import("./feed.js").MarketFeed} feed @param {import("../core/types.js").Market} market */
  constructor(feed, market) {
    this.feed = feed;
    this.digits = { price: digitsOf(market.tick), quantity: 0 };
    this.rows = Array.from({ length: ROWS }, () => h("tr", { hidden: true }, ...Array.from({ length: 4 }, () => h("td", { class: "number" }))));
    this.table = h(
      "table",
      {},
      h("caption", { class: "unseen" }, `Public trades of ${market.symbol}, newest first`),
      h("colgroup", {}, ...HEADS.map(() => h("col"))),
      h("thead", {}, h("tr", {}, ...HEADS.map((t) => h("th", { scope: "col", class: "number" }, t)))),
      h("tbody", {}, ...this.rows),
    );
    this.element = h(
      "section",
      { class: "panel tape", "aria-label": "trades" },
      h("header", {}, h("h2", { text: "Trades" })),
      h(
        "div",
        { class: "scroller", tabindex: "0", role: "group", "aria-label": "list of trades" },
        this.table,
      ),
    );
    const draw = drawer(() => this.#draw());
    this.stop = feed.trades.follow(draw);
  }

  #draw() {
    this.digits.quantity = mostDigits(this.feed.trades.value.slice(0, ROWS).map((trade) => trade.quantity));
    this.rows.forEach((row, at) => {
      const trade = this.feed.trades.value[at];
      row.hidden = trade === undefined;
      if (trade === undefined) return;
      row.className = trade.side;
      const texts = [
        padded(trade.price, this.digits.price),
        padded(trade.quantity, this.digits.quantity),
        clock(trade.time),
        shortId(trade.maker),
      ];
      texts.forEach((text, column) => setText(row.children[column], text));
      row.title = `${trade.side === "buy" ? "bought from" : "sold to"} ${trade.maker}`;
    });
    const columns = HEADS.map((head, at) =>
      Math.max(head.length, longest(this.rows.map((row) => row.children[at].textContent ?? ""))),
    );
    columns[3] *= LETTER;
    fitColumns(this.table, columns);
  }
}
