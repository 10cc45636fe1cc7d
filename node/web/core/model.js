/** The page's state of the node: session, markets, tickers, and the account in view. */

import { Api, explain } from "./api.js";
import { Cell } from "./state.js";
import { Stream } from "./stream.js";

/** @typedef {import("./types.js").Session} Session */
/** @typedef {import("./types.js").Market} Market */
/** @typedef {import("./types.js").Ticker} Ticker */
/** @typedef {import("./types.js").Halt} Halt */

const STORED = "exchange-node-key"; // in sessionStorage, which ends with its tab
const TICKERS = 40; // streams of one connection are bounded
const LOOK = 10_000; // ms between two requests for the health and the clock of the node

/**
 * KEY:SECRET of this tab; null without.
 * @returns {string | null}
 */
export function storedCredentials() {
  return sessionStorage.getItem(STORED);
}

/** @param {string | null} credentials */
export function storeCredentials(credentials) {
  if (credentials === null) sessionStorage.removeItem(STORED);
  else sessionStorage.setItem(STORED, credentials);
}

export class Model {
  constructor() {
    this.api = new Api(storedCredentials);
    this.stream = new Stream(storedCredentials);
    /** @type {Cell<Session | null>} */
    this.session = new Cell(/** @type {Session | null} */ (null));
    /** @type {Cell<Market[]>} */
    this.markets = new Cell(/** @type {Market[]} */ ([]));
    /** @type {Map<string, Cell<Ticker | null>>} */
    this.tickers = new Map();
    /** @type {Cell<Map<string, Halt>>} */
    this.halts = new Cell(/** @type {Map<string, Halt>} */ (new Map()));
    /** For the operator: the account that is acted for; null is the own one. */
    this.account = new Cell(/** @type {string | null} */ (null));
    /** Current problems by short name, shown in the banner. */
    this.troubles = new Cell(/** @type {Map<string, string>} */ (new Map()));
    /** @type {(() => void)[]} */
    this.ends = [];
  }

  get canRead() {
    return this.#may("read");
  }

  get canTrade() {
    return this.#may("trade");
  }

  get isOperator() {
    return this.session.value?.operator === true;
  }

  /** Whether the account in view is the house, which has no limits and pays no fees. */
  get isHouse() {
    return this.session.value?.account === 0 && this.account.value === null;
  }

  /** @param {string} permission */
  #may(permission) {
    const session = this.session.value;
    return session !== null && (session.operator || session.permissions.includes(permission));
  }

  /**
   * Load the session and the markets.
   * @throws {import("./api.js").Refused | import("./api.js").Unanswered}
   */
  async begin() {
    const session = await this.api.get("/v1/session");
    this.api.nodeId = session.node_id;
    /** @type {Market[]} */
    const markets = await this.api.get("/v1/markets");
    for (const end of this.ends.splice(0)) end();
    for (const { symbol } of markets.slice(0, TICKERS)) {
      const cell = this.tickers.get(symbol) ?? new Cell(/** @type {Ticker | null} */ (null));
      this.tickers.set(symbol, cell);
      this.ends.push(
        this.stream.subscribe({ channel: "ticker", market: symbol, conflate_ms: 250 }, (message) => {
          cell.value = message.ticker;
        }),
      );
    }
    this.ends.push(
      this.stream.subscribe({ channel: "halts" }, ({ halts }) => {
        const halted = /** @type {Halt[]} */ (halts).filter((halt) => halt.halted);
        this.halts.value = new Map(halted.map((halt) => [halt.market, halt]));
      }),
    );
    const timer = setInterval(() => void this.#look(), LOOK);
    this.ends.push(() => clearInterval(timer));
    this.markets.value = markets;
    if (this.account.value !== null) this.account.value = null;
    this.session.value = session;
  }

  async #look() {
    try {
      await this.api.get("/v1/health");
      this.trouble("answers", null);
    } catch (error) {
      this.trouble("answers", `The node does not answer requests: ${explain(error)}`);
    }
  }

  /** @param {string} symbol */
  market(symbol) {
    return this.markets.value.find((market) => market.symbol === symbol) ?? null;
  }

  /**
   * Show or take away a trouble.
   * @param {string} name
   * @param {string | null} text
   */
  trouble(name, text) {
    const troubles = this.troubles.value;
    if ((troubles.get(name) ?? null) === text) return;
    if (text === null) troubles.delete(name);
    else troubles.set(name, text);
    this.troubles.changed();
  }
}
