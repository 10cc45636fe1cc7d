/** All markets at a glance; each leads to its view. */

import { h, setText } from "../core/dom.js";
import { Decimal } from "../core/decimal.js";
import { drawer } from "../core/state.js";

/** @param {import("../core/types.js").Ticker} ticker @returns {string} change of 24 hours in per cent */
export function changeText(ticker) {
  const [last, change] = [Decimal.parse(ticker.last ?? ""), Decimal.parse(ticker.change)];
  if (last === null || change === null) return "";
  const before = last.minus(change);
  if (before.isZero) return "";
  const part = change.times(new Decimal(100n, 0)).over(before, 2);
  return `${change.isNegative ? "−" : "+"}${part.abs().toFixed(2)} %`;
}

export class TickerStrip {
  /** @param {import("../core/model.js").Model} model */
  constructor(model) {
    this.model = model;
    /** @type {(() => void)[]} */
    this.ends = [];
    this.element = h("nav", { class: "tickers", "aria-label": "markets" });
    this.current = "";
    model.markets.follow(() => this.#build());
  }

  #build() {
    for (const end of this.ends.splice(0)) end();
    const links = this.model.markets.value.map(({ symbol }) => {
      const [price, change] = [h("span", { class: "price" }), h("span", { class: "change" })];
      const link = h("a", { href: `#/market/${symbol}`, data: { symbol } }, h("b", {}, symbol), price, change);
      const draw = drawer(() => {
        const ticker = this.model.tickers.get(symbol)?.value ?? null;
        setText(price, ticker?.last ?? "–");
        setText(change, ticker === null ? "" : changeText(ticker));
        change.className = `change ${ticker?.change.startsWith("-") ? "down" : "up"}`;
      });
      const cell = this.model.tickers.get(symbol);
      if (cell !== undefined) this.ends.push(cell.follow(draw));
      return link;
    });
    this.element.replaceChildren(...links);
    this.mark(this.current);
  }

  /** @param {string} symbol the one that is looked at */
  mark(symbol) {
    this.current = symbol;
    for (const link of this.element.querySelectorAll("a")) {
      if (link.dataset["symbol"] === symbol) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
    }
  }
}
