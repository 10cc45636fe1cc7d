/**
 * Candles with volume on a canvas: hover values, zoom, and back into history. The numbers here are pixels'
 * business; texts are the node's own decimals.
 */

import { fill, h, select, setText, button } from "../core/dom.js";
import { padded, digitsOf } from "../core/decimal.js";
import { moment } from "../core/format.js";
import { Scope } from "../core/state.js";
import { Plot, ticks, widest } from "./canvas.js";

/** @typedef {import("../core/types.js").Candle} Candle */

export const LENGTHS = "1m 5m 15m 30m 1h 3h 4h 6h 12h 1D 1W 7D 14D 1M".split(" ");
const PAGE = 300; // candles of one request for history
const AXIS = 62; // least pixels of the price axis
const BEFORE = 6; // pixels before a price on it
const AFTER = 4;
const HALF = 7; // half the height of a number
const BOTTOM = 18; // of the time axis
const WIDEST = 40; // pixels of a candle
const NARROWEST = 2;

export class CandleChart {
  #scope = new Scope();

  /** @param {import("../core/model.js").Model} model @param {import("../core/types.js").Market} market */
  constructor(model, market) {
    this.model = model;
    this.market = market;
    this.digits = digitsOf(market.tick);
    this.timeframe = "1m";
    /** @type {Map<number, Candle>} by time, ms */
    this.candles = new Map();
    /** @type {number[]} */
    this.times = [];
    this.width = 9; // pixels of a candle
    this.axis = AXIS; // pixels of the price axis, as wide as its prices
    this.offset = 0; // candles between the newest and the right edge
    this.cursor = -1; // index of the candle that is pointed at
    /** The length whose history is being loaded. */
    this.loading = /** @type {Scope | null} */ (null);
    this.complete = false; // there is nothing older
    this.plot = new Plot(`price chart of ${market.symbol}`, (...all) => this.#paint(...all), { tabindex: "0" });
    this.readout = h("p", { class: "readout" });
    const length = select(LENGTHS.map((each) => [each, each]), this.timeframe, (value) => this.show(value));
    length.setAttribute("aria-label", "length of a candle");
    const tools = h(
      "div",
      { class: "tools" },
      length,
      button("−", () => this.#zoom(0.8), { "aria-label": "zoom out" }),
      button("+", () => this.#zoom(1.25), { "aria-label": "zoom in" }),
      button("Latest", () => this.#scroll(-this.offset)),
    );
    this.element = h(
      "section",
      { class: "panel chart", "aria-label": "candles" },
      h("header", {}, h("h2", { text: "Chart" }), this.readout, tools),
      this.plot.box,
    );
    this.#listen();
    this.show(this.timeframe);
  }

  /** @param {string} timeframe */
  show(timeframe) {
    this.#scope.end();
    const scope = (this.#scope = new Scope());
    this.timeframe = timeframe;
    this.candles.clear();
    this.times = [];
    [this.offset, this.cursor, this.complete] = [0, -1, false];
    const request = { channel: "candles", market: this.market.symbol, timeframe, conflate_ms: 250 };
    scope.add(
      this.model.stream.subscribe(request, (message) => {
        this.#take(message.candles);
        if (message.event === "candles_snapshot") void this.#history(scope);
      }),
    );
  }

  stop() {
    this.#scope.end();
    this.plot.stop();
  }

  /** @param {Candle[]} candles */
  #take(candles) {
    const newest = this.times.at(-1) ?? 0;
    let grew = false;
    for (const candle of candles) {
      const time = Date.parse(candle.time);
      grew ||= !this.candles.has(time);
      this.candles.set(time, candle);
    }
    if (grew) {
      this.times = [...this.candles.keys()].sort((a, b) => a - b);
      // A view of the past stays where it is.
      if (this.offset > 0 && newest > 0) this.offset += this.times.filter((t) => t > newest).length;
    }
    this.#describe();
    this.plot.draw();
  }

  /** Load older candles where the left edge is near. @param {Scope} scope */
  async #history(scope) {
    const shown = Math.ceil(this.plot.box.clientWidth / this.width);
    const wanted = this.offset + shown + 50;
    const oldest = this.times[0];
    if (this.loading === scope || this.complete || oldest === undefined || this.times.length >= wanted) return;
    this.loading = scope;
    try {
      /** @type {Candle[]} */
      const older = await this.model.api.get(`/v1/candles/${this.market.symbol}`, {
        timeframe: this.timeframe,
        end: oldest - 1,
        limit: PAGE,
      });
      if (scope.ended) return;
      this.complete = older.length === 0;
      this.#take(older);
    } catch {
      return; // the next scroll tries again
    } finally {
      if (this.loading === scope) this.loading = null;
    }
    void this.#history(scope);
  }

  #listen() {
    const { canvas } = this.plot;
    let dragged = /** @type {number | null} */ (null);
    canvas.addEventListener("pointerdown", (event) => {
      dragged = event.clientX;
      canvas.setPointerCapture(event.pointerId);
    });
    canvas.addEventListener("pointermove", (event) => {
      if (dragged !== null && Math.abs(event.clientX - dragged) >= this.width) {
        const moved = Math.trunc((event.clientX - dragged) / this.width);
        dragged += moved * this.width;
        this.#scroll(moved);
      }
      this.#point(this.#indexAt(event.offsetX));
    });
    for (const type of ["pointerup", "pointercancel"]) canvas.addEventListener(type, () => (dragged = null));
    canvas.addEventListener("pointerleave", () => this.#point(-1));
    canvas.addEventListener("wheel", (event) => this.#wheel(event), { passive: false });
    canvas.addEventListener("keydown", (event) => this.#key(event));
  }

  /** @param {WheelEvent} event */
  #wheel(event) {
    if (event.ctrlKey || event.metaKey) this.#zoom(event.deltaY < 0 ? 1.25 : 0.8);
    else if (Math.abs(event.deltaX) > Math.abs(event.deltaY)) this.#scroll(-Math.sign(event.deltaX) * 3);
    else return; // the page scrolls
    event.preventDefault();
  }

  /** @param {KeyboardEvent} event */
  #key(event) {
    const last = this.times.length - 1;
    const at = this.cursor < 0 ? last - this.offset : this.cursor;
    /** @type {Record<string, () => void>} */
    const acts = {
      ArrowLeft: () => this.#point(Math.max(0, at - 1), true),
      ArrowRight: () => this.#point(Math.min(last, at + 1), true),
      PageUp: () => this.#scroll(20),
      PageDown: () => this.#scroll(-20),
      Home: () => this.#scroll(this.times.length),
      End: () => this.#scroll(-this.offset),
      "+": () => this.#zoom(1.25),
      "-": () => this.#zoom(0.8),
    };
    const act = acts[event.key];
    if (act === undefined) return;
    event.preventDefault();
    event.stopPropagation();
    act();
  }

  /** @param {number} candles to the past */
  #scroll(candles) {
    this.offset = Math.max(0, Math.min(this.offset + candles, Math.max(0, this.times.length - 5)));
    void this.#history(this.#scope);
    this.plot.draw();
  }

  /** @param {number} factor */
  #zoom(factor) {
    this.width = Math.max(NARROWEST, Math.min(WIDEST, this.width * factor));
    void this.#history(this.#scope);
    this.plot.draw();
  }

  /** @param {number} x */
  #indexAt(x) {
    const fromRight = Math.floor((this.plot.box.clientWidth - this.axis - x) / this.width);
    const index = this.times.length - 1 - this.offset - fromRight;
    return fromRight >= 0 && index >= 0 && index < this.times.length ? index : -1;
  }

  /** @param {number} index @param {boolean} [follow] bring it into view */
  #point(index, follow = false) {
    this.cursor = index;
    if (follow) {
      const shown = Math.floor((this.plot.box.clientWidth - this.axis) / this.width) - 1;
      const back = this.times.length - 1 - index;
      if (back < this.offset) this.#scroll(back - this.offset);
      else if (back > this.offset + shown) this.#scroll(back - this.offset - shown);
    }
    this.#describe();
    this.plot.draw();
  }

  #describe() {
    const time = this.times[this.cursor < 0 ? this.times.length - 1 : this.cursor];
    const candle = time === undefined ? undefined : this.candles.get(time);
    if (candle === undefined) {
      setText(this.readout, "nothing was traded yet");
      return;
    }
    const price = (/** @type {string} */ text) => padded(text, this.digits);
    fill(
      this.readout,
      h("time", { datetime: candle.time }, moment(candle.time)),
      ` O ${price(candle.open)} H ${price(candle.high)} L ${price(candle.low)} C ${price(candle.close)}`,
      ` V ${candle.volume} · ${candle.trades} trade${candle.trades === 1 ? "" : "s"}`,
    );
    this.plot.canvas.setAttribute(
      "aria-label",
      `price chart of ${this.market.symbol}; ${this.readout.textContent}`,
    );
  }

  /**
   * @param {CanvasRenderingContext2D} context @param {number} width @param {number} height
   * @param {import("./canvas.js").Colours} colours
   */
  #paint(context, width, height, colours) {
    const bottom = height - BOTTOM;
    const last = this.times.length - 1 - this.offset;
    const first = Math.max(0, last - Math.floor((width - this.axis) / this.width));
    const shown = this.times.slice(first, last + 1).map((time) => {
      const c = /** @type {Candle} */ (this.candles.get(time));
      const [open, high, low, close, volume] = [c.open, c.high, c.low, c.close, c.volume].map(Number);
      return { time, open, high, low, close, volume };
    });
    if (shown.length === 0) return;
    let low = Math.min(...shown.map((c) => c.low));
    let high = Math.max(...shown.map((c) => c.high));
    const margin = (high - low) * 0.06 || high * 0.001 || 1;
    [low, high] = [low - margin, high + margin];
    const prices = [high.toFixed(this.digits), this.#newestClose];
    this.axis = Math.max(AXIS, BEFORE + Math.ceil(widest(context, prices)) + AFTER);
    const right = width - this.axis;
    const most = Math.max(...shown.map((c) => c.volume)) || 1;
    const y = (/** @type {number} */ price) => 4 + ((high - price) / (high - low)) * (bottom * 0.82 - 4);
    this.#grid(context, { low, high, right, bottom, y }, shown, colours);
    shown.forEach((c, at) => {
      const centre = right - (shown.length - at - 0.5) * this.width;
      const half = Math.max(0.5, this.width * 0.36);
      context.fillStyle = context.strokeStyle = c.close >= c.open ? colours.buy : colours.sell;
      context.globalAlpha = 0.35;
      const tall = (c.volume / most) * bottom * 0.15;
      context.fillRect(centre - half, bottom - tall, half * 2, tall);
      context.globalAlpha = 1;
      context.fillRect(Math.round(centre) - 0.5, y(c.high), 1, Math.max(1, y(c.low) - y(c.high)));
      const [top, end] = [y(Math.max(c.open, c.close)), y(Math.min(c.open, c.close))];
      context.fillRect(centre - half, top, half * 2, Math.max(1, end - top));
      if (first + at === this.cursor) {
        context.strokeStyle = colours.accent;
        context.strokeRect(centre - half - 2, y(c.high) - 2, half * 2 + 4, y(c.low) - y(c.high) + 4);
      }
    });
    this.#lastPrice(context, y, right, colours);
  }

  /**
   * @param {CanvasRenderingContext2D} context
   * @param {{low: number, high: number, right: number, bottom: number, y: (price: number) => number}} frame
   * @param {{time: number}[]} shown @param {import("./canvas.js").Colours} colours
   */
  #grid(context, frame, shown, colours) {
    const { low, high, right, bottom, y } = frame;
    context.textBaseline = "middle";
    for (const price of ticks(low, high, 6)) {
      context.fillStyle = colours.faint;
      context.fillRect(0, Math.round(y(price)), right, 1);
      // No number where there is no room for it: at the edge, or behind the last price.
      if (y(price) < HALF || Math.abs(y(price) - y(Number(this.#newestClose))) < 2 * HALF + 2) continue;
      context.fillStyle = colours.text;
      context.fillText(price.toFixed(this.digits), right + BEFORE, y(price));
    }
    const day = ["1D", "1W", "7D", "14D", "1M"].includes(this.timeframe);
    /** @type {Intl.DateTimeFormatOptions} */
    const options = day
      ? { month: "short", day: "numeric" }
      : { hour: "2-digit", minute: "2-digit", hour12: false };
    const format = new Intl.DateTimeFormat(undefined, options);
    const every = Math.max(1, Math.ceil(80 / this.width));
    shown.forEach((candle, at) => {
      if ((shown.length - 1 - at) % every !== 0) return;
      const x = right - (shown.length - at - 0.5) * this.width;
      if (x < 20) return;
      const text = format.format(candle.time);
      context.fillText(text, x - context.measureText(text).width / 2, bottom + BOTTOM / 2);
    });
  }

  /** The price of the last trade as it is written, "" without one. */
  get #newestClose() {
    const candle = this.candles.get(this.times.at(-1) ?? 0);
    return candle === undefined ? "" : padded(candle.close, this.digits);
  }

  /**
   * @param {CanvasRenderingContext2D} context @param {(price: number) => number} y
   * @param {number} right @param {import("./canvas.js").Colours} colours
   */
  #lastPrice(context, y, right, colours) {
    const close = this.#newestClose;
    const at = y(Number(close));
    context.fillStyle = colours.accent;
    context.fillRect(0, Math.round(at), right, 1);
    context.fillRect(right + 2, at - 9, this.axis - 2, 18);
    context.fillStyle = colours.back;
    context.fillText(close, right + BEFORE, at);
  }
}
