/** Everything that streams about one market: levels, single orders, trades. */

import { Book, LEVELS, ORDERS } from "../core/book.js";
import { Cell, Scope } from "../core/state.js";

/** @typedef {import("../core/types.js").Trade} Trade */

const DEPTH = 100; // levels and orders of a side
const BOOK_MS = 40; // at most one message of levels in so long: a frame or two
const ORDERS_MS = 400; // single orders show the owners of a level; more often would be unreadable
const TRADES = 100; // kept

export class MarketFeed {
  #scope = new Scope();
  #levels = new Scope();

  #trades = false;

  /** @param {import("../core/model.js").Model} model @param {string} symbol */
  constructor(model, symbol) {
    this.model = model;
    this.symbol = symbol;
    /** @type {Book<import("../core/types.js").Level>} */
    this.book = new Book(LEVELS);
    /** @type {Book<import("../core/types.js").RestingOrder>} */
    this.single = new Book(ORDERS);
    /** Changes when the book did. */
    this.changed = new Cell(0);
    this.trades = new Cell(/** @type {Trade[]} */ ([])); // newest first
    /** The whole network's book, or this node's part of it. */
    this.scope = /** @type {"network" | "own"} */ ("network");
    this.#followLevels();
    const { stream } = model;
    this.#scope.add(
      stream.subscribe(
        { channel: "book", market: symbol, level: "L3", depth: DEPTH, conflate_ms: ORDERS_MS },
        (message) => this.single.apply(message),
      ),
    );
    this.#scope.add(
      stream.subscribe({ channel: "trades", market: symbol, conflate_ms: 100 }, (message) => {
        this.#trades = true;
        const snapshot = message.event === "trades_snapshot";
        const newest = snapshot ? message.trades : [...message.trades].reverse();
        this.trades.value = [...newest, ...(snapshot ? [] : this.trades.value)].slice(0, TRADES);
      }),
    );
  }

  /** True once the market is loaded; there is no preview before. */
  get loaded() {
    return this.#trades && this.book.time !== "" && this.single.time !== "";
  }

  /** @param {"network" | "own"} scope */
  setScope(scope) {
    if (scope === this.scope) return;
    this.scope = scope;
    this.#followLevels();
  }

  #followLevels() {
    this.#levels.end();
    this.#levels = new Scope();
    const request = { level: "L2", depth: DEPTH, scope: this.scope, conflate_ms: BOOK_MS };
    this.#levels.add(
      this.model.stream.subscribe({ channel: "book", market: this.symbol, ...request }, (message) => {
        this.book.apply(message);
        this.changed.value++;
      }),
    );
  }

  stop() {
    this.#levels.end();
    this.#scope.end();
  }
}
