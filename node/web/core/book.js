/**
 * A book at the reader's end: a snapshot, then changes, each verified by its checksum. Works for price
 * levels (L2) and for single orders (L3) alike; they differ in their name, rank and line of text.
 */

import { levelCheck, orderCheck } from "./checksum.js";
import { Decimal } from "./decimal.js";

/** @typedef {import("./types.js").Level} Level */
/** @typedef {import("./types.js").RestingOrder} RestingOrder */
/** @typedef {import("./types.js").Side} Side */

/** The message does not fit the book: subscribe anew. */
export class BookFault extends Error {}

/**
 * Name of an entry, and the texts of faults.
 * @template E
 * @typedef {object} Kind
 * @property {(entry: E) => string} name
 * @property {(entry: E) => string} price
 * @property {(entry: E) => string} quantity
 * @property {(side: Side, entry: E) => number} check
 * @property {(a: E, b: E) => number} within order of entries of one price
 */

/** @type {Kind<Level>} */
export const LEVELS = {
  name: (level) => level[0],
  price: (level) => level[0],
  quantity: (level) => level[1],
  check: levelCheck,
  within: () => 0,
};

/** @param {string} id @returns {[node: string, number: number]} */
export function splitOrderId(id) {
  const at = id.lastIndexOf("-");
  return [id.slice(0, at), Number(id.slice(at + 1))];
}

/** @param {RestingOrder} a @param {RestingOrder} b */
function byTime(a, b) {
  if (a[3] !== b[3]) return a[3] < b[3] ? -1 : 1;
  const [[nodeA, numberA], [nodeB, numberB]] = [splitOrderId(a[0]), splitOrderId(b[0])];
  return nodeA === nodeB ? numberA - numberB : nodeA < nodeB ? -1 : 1;
}

/** @type {Kind<RestingOrder>} */
export const ORDERS = {
  name: (order) => order[0],
  price: (order) => order[1],
  quantity: (order) => order[2],
  check: orderCheck,
  within: byTime,
};

/**
 * @template E
 * @typedef {object} Held
 * @property {E} entry
 * @property {Decimal} price
 * @property {number} check
 */

/**
 * One side, best price first.
 * @template E
 */
class Half {
  /** @param {Side} side @param {Kind<E>} kind */
  constructor(side, kind) {
    this.side = side;
    this.kind = kind;
    this.checksum = 0;
    /** @type {Map<string, Held<E>>} */
    this.held = new Map();
    /** @type {Held<E>[]} */
    this.sorted = [];
  }

  /** @param {E[]} entries */
  load(entries) {
    this.checksum = 0;
    this.held.clear();
    this.sorted = entries.map((entry) => this.#hold(entry)).sort((a, b) => this.#compare(a, b));
  }

  /** @param {E} entry */
  apply(entry) {
    const name = this.kind.name(entry);
    const known = this.held.get(name);
    if (known !== undefined) {
      this.checksum = (this.checksum - known.check) >>> 0;
      this.held.delete(name);
      this.sorted.splice(this.#place(known), 1);
    }
    if (this.kind.quantity(entry) === "0") return;
    const held = this.#hold(entry);
    this.sorted.splice(this.#place(held), 0, held);
  }

  /** @param {E} entry @returns {Held<E>} */
  #hold(entry) {
    const check = this.kind.check(this.side, entry);
    const held = { entry, price: Decimal.of(this.kind.price(entry)), check };
    this.held.set(this.kind.name(entry), held);
    this.checksum = (this.checksum + check) >>> 0;
    return held;
  }

  /** @param {Held<E>} a @param {Held<E>} b */
  #compare(a, b) {
    const prices = a.price.compare(b.price);
    if (prices !== 0) return this.side === "buy" ? -prices : prices;
    return this.kind.within(a.entry, b.entry);
  }

  /** @param {Held<E>} held @returns {number} where it stands, or is to stand */
  #place(held) {
    let [low, high] = [0, this.sorted.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.#compare(this.sorted[middle], held) < 0) low = middle + 1;
      else high = middle;
    }
    return low;
  }
}

/** @template E */
export class Book {
  /** @param {Kind<E>} kind */
  constructor(kind) {
    this.bids = new Half("buy", kind);
    this.asks = new Half("sell", kind);
    this.sequence = 0;
    this.time = "";
  }

  get checksum() {
    return (this.bids.checksum + this.asks.checksum) >>> 0;
  }

  /**
   * Take over a snapshot or a change.
   * @param {{event: string, sequence: number, checksum: number, time: string, bids: E[], asks: E[]}} message
   * @throws {BookFault} the book is not the node's any more
   */
  apply(message) {
    if (message.event.endsWith("_snapshot")) {
      this.bids.load(message.bids);
      this.asks.load(message.asks);
    } else {
      for (const entry of message.bids) this.bids.apply(entry);
      for (const entry of message.asks) this.asks.apply(entry);
    }
    this.sequence = message.sequence;
    this.time = message.time;
    if (this.checksum !== message.checksum) {
      throw new BookFault(
        `checksum ${message.checksum} of message ${message.sequence}, but the book has ${this.checksum}`,
      );
    }
  }
}
