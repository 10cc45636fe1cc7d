/** The market view: ticket, book, chart, depth, tape, and the account's own. */

import { h, setText } from "../core/dom.js";
import { OwnPanel } from "../own/panel.js";
import { CandleChart } from "./candle_chart.js";
import { DepthChart } from "./depth_chart.js";
import { MarketFeed } from "./feed.js";
import { LadderView } from "./ladder_view.js";
import { Tape } from "./tape.js";
import { Ticket } from "./ticket.js";

/**
 * @param {import("../core/model.js").Model} model
 * @param {import("../own/account.js").Account} account
 * @param {string} symbol
 */
export function marketView(model, account, symbol) {
  const market = model.market(symbol);
  if (market === null) {
    const known = model.markets.value.map((m) => m.symbol).join(", ");
    return {
      element: h("p", { class: "panel", text: `This node has no market ${symbol}. It has ${known}.` }),
      stop: () => {},
      key: () => false,
    };
  }
  const feed = new MarketFeed(model, symbol);
  const ticket = model.canTrade ? new Ticket(model, feed, account, market) : null;
  const ladder = new LadderView(feed, market, account, (side, price) => ticket?.pick(side, price));
  const chart = new CandleChart(model, market);
  const depth = new DepthChart(feed, market);
  const tape = new Tape(feed, market);
  const own = model.canRead ? new OwnPanel(model, account) : null;
  const halt = h("p", { class: "halt", role: "status", hidden: true });
  const endHalt = model.halts.follow((halts) => {
    const found = halts.get(symbol);
    halt.hidden = found === undefined;
    if (found) setText(halt, `${symbol} is halted: ${found.reason}. Orders can be cancelled, not placed.`);
  });
  const parts = [ladder, chart, depth, tape, ticket, own].filter((part) => part !== null);
  const element = h(
    "div",
    {},
    h("h1", { class: "unseen", text: `Market ${symbol}` }),
    halt,
    h(
      "div",
      { class: `market${ticket === null ? " looking" : ""}` },
      ...parts.map((part) => part.element),
    ),
  );
  return {
    element,
    stop: () => {
      endHalt();
      for (const part of parts) part.stop();
      feed.stop();
    },
    /** @param {string} key @returns {boolean} whether it meant something */
    key: (key) => {
      if (key === "l") ladder.focus();
      else if (ticket !== null && (key === "b" || key === "s")) ticket.focus(key === "b" ? "buy" : "sell");
      else if (own !== null && key === "o") own.focus();
      else return false;
      return true;
    },
  };
}
