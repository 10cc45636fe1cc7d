/** Cumulative depth of both sides on a canvas. */

import { h } from "../core/dom.js";
import { Decimal, ZERO, digitsOf } from "../core/decimal.js";
import { Plot, ticks } from "./canvas.js";

/** @typedef {{price: number, total: number}} Point */

export class DepthChart {
  /** @param {import("./feed.js").MarketFeed} feed @param {import("../core/types.js").Market} market */
  constructor(feed, market) {
    this.feed = feed;
    this.digits = digitsOf(market.tick);
    this.plot = new Plot(`cumulative depth of ${market.symbol}; the book has the numbers`, (...all) =>
      this.#paint(...all),
    );
    this.element = h(
      "section",
      { class: "panel depth", "aria-label": "depth" },
      h("header", {}, h("h2", { text: "Depth" })),
      this.plot.box,
    );
    // Deep books change faster than anybody sees: a few times a second is enough.
    this.timer = setInterval(this.plot.draw, 250);
  }

  stop() {
    clearInterval(this.timer);
    this.plot.stop();
  }

  /** @param {{price: Decimal, entry: import("../core/types.js").Level}[]} sorted @returns {Point[]} */
  #points(sorted) {
    let total = ZERO;
    return sorted.map(({ price, entry }) => {
      total = total.plus(Decimal.of(entry[1]));
      return { price: price.toNumber(), total: total.toNumber() };
    });
  }

  /**
   * @param {CanvasRenderingContext2D} context @param {number} width @param {number} height
   * @param {import("./canvas.js").Colours} colours
   */
  #paint(context, width, height, colours) {
    const { book } = this.feed;
    const [bids, asks] = [this.#points(book.bids.sorted), this.#points(book.asks.sorted)];
    const all = [...bids, ...asks];
    if (all.length === 0) return;
    const bottom = height - 16;
    let [low, high] = [Math.min(...all.map((p) => p.price)), Math.max(...all.map((p) => p.price))];
    if (low === high) [low, high] = [low * 0.999, high * 1.001];
    const most = Math.max(...all.map((p) => p.total));
    const x = (/** @type {number} */ price) => ((price - low) / (high - low)) * width;
    const y = (/** @type {number} */ total) => bottom - (total / most) * (bottom - 8);
    context.fillStyle = colours.text;
    for (const price of ticks(low, high, Math.max(2, Math.floor(width / 110)))) {
      const text = price.toFixed(this.digits);
      const at = Math.min(x(price), width - context.measureText(text).width);
      context.fillText(text, Math.max(0, at - 20), height - 4);
    }
    for (const [points, colour, end] of /** @type {[Point[], string, number][]} */ ([
      [bids, colours.buy, 0],
      [asks, colours.sell, width],
    ])) {
      if (points.length === 0) continue;
      context.beginPath();
      context.moveTo(x(points[0].price), bottom);
      let before = bottom;
      for (const point of points) {
        context.lineTo(x(point.price), before);
        before = y(point.total);
        context.lineTo(x(point.price), before);
      }
      context.lineTo(end, before);
      context.strokeStyle = context.fillStyle = colour;
      context.lineWidth = 1.5;
      context.stroke();
      context.lineTo(end, bottom);
      context.globalAlpha = 0.18;
      context.fill();
      context.globalAlpha = 1;
    }
  }
}
