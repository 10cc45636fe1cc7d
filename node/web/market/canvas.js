/** A canvas that fits its box and the screen's pixels, with the page's colours. */

import { h } from "../core/dom.js";
import { drawer } from "../core/state.js";

/** @typedef {{text: string, line: string, faint: string, buy: string, sell: string, accent: string, back: string}} Colours */

export class Plot {
  /**
   * @param {string} label
   * @param {(context: CanvasRenderingContext2D, width: number, height: number, colours: Colours) => void} paint
   * @param {import("../core/dom.js").Props} [props]
   */
  constructor(label, paint, props = {}) {
    this.canvas = h("canvas", { role: "img", "aria-label": label, ...props });
    this.box = h("div", { class: "plot" }, this.canvas);
    this.paint = paint;
    this.draw = drawer(() => this.#draw());
    this.observer = new ResizeObserver(this.draw);
    this.observer.observe(this.box);
    this.media = matchMedia("(prefers-color-scheme: dark)");
    this.media.addEventListener("change", this.draw);
    document.addEventListener("themechange", this.draw);
  }

  stop() {
    this.observer.disconnect();
    this.media.removeEventListener("change", this.draw);
    document.removeEventListener("themechange", this.draw);
  }

  #draw() {
    const { clientWidth: width, clientHeight: height } = this.box;
    const context = this.canvas.getContext("2d");
    if (context === null || width === 0 || height === 0) return;
    const ratio = devicePixelRatio || 1;
    const [wide, high] = [Math.round(width * ratio), Math.round(height * ratio)];
    if (this.canvas.width !== wide || this.canvas.height !== high) {
      [this.canvas.width, this.canvas.height] = [wide, high];
    }
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, width, height);
    context.font = "11px system-ui, sans-serif";
    this.paint(context, width, height, colours(this.box));
  }
}

/** @param {Element} element @returns {Colours} */
function colours(element) {
  const style = getComputedStyle(element);
  const get = (/** @type {string} */ name) => style.getPropertyValue(`--${name}`).trim();
  return {
    text: get("muted"),
    line: get("line"),
    faint: get("grid"),
    buy: get("buy"),
    sell: get("sell"),
    accent: get("accent"),
    back: get("panel"),
  };
}

/**
 * Round values between two others, at most so many.
 * @param {number} low @param {number} high @param {number} most
 */
export function ticks(low, high, most) {
  const span = high - low;
  if (!(span > 0)) return [low];
  const rough = span / most;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * ([1, 2, 5].find((factor) => factor * power >= rough) ?? 10);
  const found = [];
  for (let value = Math.ceil(low / step) * step; value <= high + step / 1e6; value += step) found.push(value);
  return found;
}

/**
 * Pixels of the widest text.
 * @param {CanvasRenderingContext2D} context @param {string[]} texts
 */
export function widest(context, texts) {
  return Math.max(0, ...texts.map((text) => context.measureText(text).width));
}
