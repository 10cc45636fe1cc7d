/**
 * Effect of an order on the displayed book: worst and average price, fee, hold, balances
 * afterwards, and whose orders it takes. All in exact decimals; the node decides, this is an estimate.
 */

import { splitOrderId } from "../core/book.js";
import { Decimal, ONE, ZERO } from "../core/decimal.js";
import { OCO_STOP } from "../core/fields.js";

/** @typedef {import("../core/types.js").Market} Market */
/** @typedef {import("../core/types.js").RestingOrder} RestingOrder */
/** @typedef {import("./order_types.js").Draft} Draft */

/**
 * @typedef {object} Surroundings
 * @property {Market} market
 * @property {{price: Decimal, quantity: Decimal}[]} against levels of the other side, best first
 * @property {{price: Decimal, entry: RestingOrder}[]} orders the same as single orders, as far as shown
 * @property {Decimal | null} last price of the last trade
 * @property {Map<string, {available: Decimal}> | null} balances null for the house, which nothing bounds
 * @property {Decimal} makerFee fractions
 * @property {Decimal} takerFee
 * @property {Set<string>} doubtful nodes that gave this one reason to doubt their answers
 */

/**
 * @typedef {object} Preview
 * @property {Decimal | null} worst worst price it may trade at; null: any
 * @property {Decimal} filled quantity that would trade at once
 * @property {Decimal | null} average price of that
 * @property {Decimal | null} last level it would reach
 * @property {Decimal} rest quantity that would not trade at once
 * @property {boolean} waits it does nothing before its stop is reached
 * @property {Decimal} fee for the quantity that trades at once
 * @property {string} feeAsset
 * @property {Decimal | null} held null: nothing, it is the house's
 * @property {string} heldAsset
 * @property {{asset: string, amount: Decimal}[]} after available balances when it has traded and rests
 * @property {{node: string, quantity: Decimal, doubtful: boolean}[]} nodes whose orders it takes, most first
 * @property {Decimal} unattributed quantity that would trade beyond the single orders on show
 * @property {string[]} warnings reasons for a confirmation
 */

const FAR = Decimal.of("0.05"); // from the best price of the own side of the book, or the last trade
const IMPACT = Decimal.of("0.02"); // between the best and the last level that it would reach
const SHARE = Decimal.of("0.5"); // of the quantity displayed on the other side
export const AVERAGE_DIGITS = 8; // beyond the tick's

/**
 * @param {Draft} draft with a request that is sound
 * @param {Record<string, string | number | boolean>} request
 * @param {Surroundings} around
 * @returns {Preview}
 */
export function preview(draft, request, around) {
  const buy = draft.side === "buy";
  const quantity = Decimal.of(String(request["quantity"]));
  const worst = worstPrice(draft, request, around);
  const waits = ["stop", "stop_limit", "trailing_stop"].includes(draft.type);
  // A post-only order never takes; one that waits is shown as if its stop were reached in this book.
  const taken = draft.postOnly
    ? { filled: ZERO, cost: ZERO, last: null }
    : walk(around.against, quantity, worst, buy);
  const all = draft.tif !== "fok" || taken.filled.compare(quantity) === 0;
  const filled = all ? taken.filled : ZERO;
  const cost = all ? taken.cost : ZERO;
  const digits = Decimal.of(around.market.tick).scale + AVERAGE_DIGITS;
  const found = all ? whose(around, filled, worst, buy) : { nodes: [], unattributed: ZERO };
  const received = buy ? filled : cost;
  const house = around.balances === null;
  const fee = house ? ZERO : received.times(around.takerFee);
  const rest = quantity.minus(filled);
  const held = house ? null : holdOf(buy, quantity, draft, request, worst);
  /** @type {Preview} */
  const result = {
    worst,
    filled,
    average: filled.isZero ? null : cost.over(filled, digits),
    last: all ? taken.last : null,
    rest,
    waits,
    fee,
    feeAsset: buy ? around.market.base : around.market.quote,
    held,
    heldAsset: buy ? around.market.quote : around.market.base,
    after: afterwards(buy, draft, around, { filled, cost, fee, rest, worst }),
    nodes: found.nodes,
    unattributed: found.unattributed,
    warnings: [],
  };
  result.warnings = warnings(draft, request, around, result);
  return result;
}

/**
 * @param {Draft} draft @param {Record<string, string | number | boolean>} request
 * @param {Surroundings} around
 * @returns {Decimal | null}
 */
function worstPrice(draft, request, around) {
  if (request["price"] !== undefined) return Decimal.of(String(request["price"]));
  if (draft.worst.trim() !== "" && Decimal.parse(draft.worst) !== null) {
    return Decimal.of(draft.worst);
  }
  const from =
    request["stop"] !== undefined
      ? Decimal.of(String(request["stop"]))
      : (around.against[0]?.price ?? around.last);
  if (from === null) return null;
  const part = Decimal.of(around.market.protection);
  const tick = Decimal.of(around.market.tick);
  const factor = draft.side === "buy" ? ONE.plus(part) : ONE.minus(part);
  return from.times(factor).toStep(tick, draft.side === "buy" ? "down" : "up");
}

/**
 * @param {{price: Decimal, quantity: Decimal}[]} levels
 * @param {Decimal} quantity
 * @param {Decimal | null} worst
 * @param {boolean} buy
 */
export function walk(levels, quantity, worst, buy) {
  let [left, cost] = [quantity, ZERO];
  /** @type {Decimal | null} */
  let last = null;
  for (const level of levels) {
    if (left.isZero) break;
    if (worst !== null && (buy ? worst.below(level.price) : level.price.below(worst))) break;
    const part = left.min(level.quantity);
    left = left.minus(part);
    cost = cost.plus(part.times(level.price));
    last = level.price;
  }
  return { filled: quantity.minus(left), cost, last };
}

/**
 * @param {Surroundings} around
 * @param {Decimal} filled
 * @param {Decimal | null} worst
 * @param {boolean} buy
 */
function whose({ orders, doubtful }, filled, worst, buy) {
  /** @type {Map<string, Decimal>} */
  const found = new Map();
  let left = filled;
  for (const { price, entry } of orders) {
    if (left.isZero) break;
    if (worst !== null && (buy ? worst.below(price) : price.below(worst))) break;
    const part = left.min(Decimal.of(entry[2]));
    const [node] = splitOrderId(entry[0]);
    found.set(node, (found.get(node) ?? ZERO).plus(part));
    left = left.minus(part);
  }
  const nodes = [...found].map(([node, quantity]) => ({ node, quantity, doubtful: doubtful.has(node) }));
  nodes.sort((a, b) => b.quantity.compare(a.quantity));
  return { nodes, unattributed: left };
}

/**
 * @param {boolean} buy @param {Decimal} quantity @param {Draft} draft
 * @param {Record<string, string | number | boolean>} request @param {Decimal | null} worst
 */
function holdOf(buy, quantity, draft, request, worst) {
  if (!buy) return quantity;
  if (worst === null) return ZERO;
  // Of a pair the dearer one counts: the stop of a buy is above its limit price.
  const stop = draft.type === "oco" ? Decimal.parse(String(request[OCO_STOP])) : null;
  return quantity.times(stop !== null && worst.below(stop) ? stop : worst);
}

/**
 * @param {boolean} buy @param {Draft} draft @param {Surroundings} around
 * @param {{filled: Decimal, cost: Decimal, fee: Decimal, rest: Decimal, worst: Decimal | null}} done
 */
function afterwards(buy, draft, around, done) {
  if (around.balances === null) return [];
  const { base, quote } = around.market;
  const has = (/** @type {string} */ asset) => around.balances?.get(asset)?.available ?? ZERO;
  const rests = draft.type !== "market" && draft.tif !== "ioc" && draft.tif !== "fok";
  const held = rests ? done.rest : ZERO;
  const gets = (buy ? done.filled : done.cost).minus(done.fee);
  const gives = buy
    ? done.cost.plus(held.times(done.worst ?? ZERO))
    : done.filled.plus(held);
  return [
    { asset: base, amount: buy ? has(base).plus(gets) : has(base).minus(gives) },
    { asset: quote, amount: buy ? has(quote).minus(gives) : has(quote).plus(gets) },
  ];
}

/** @param {Decimal} a @param {Decimal} b @param {Decimal} part whether a is further than this part from b */
function isFar(a, b, part) {
  return b.times(part).below(a.minus(b).abs());
}

/** @param {Surroundings} around @param {Preview} found */
function shortfall(around, found) {
  const available = around.balances?.get(found.heldAsset)?.available ?? ZERO;
  if (found.held === null || !available.below(found.held)) return [];
  return [`it needs ${found.held} ${found.heldAsset}, and ${available} is available`];
}

/** @param {Record<string, string | number | boolean>} request @param {Decimal | null} reference */
function farPrices(request, reference) {
  if (reference === null) return [];
  const texts = [];
  for (const [name, label] of [["price", "price"], ["stop", "stop"], [OCO_STOP, "stop"]]) {
    const value = request[name] === undefined ? null : Decimal.of(String(request[name]));
    if (value !== null && isFar(value, reference, FAR)) {
      texts.push(`the ${label} ${value} is more than 5 % from ${reference}`);
    }
  }
  return texts;
}

/**
 * @param {Draft} draft @param {Record<string, string | number | boolean>} request
 * @param {Surroundings} around @param {Preview} found
 */
function warnings(draft, request, around, found) {
  const texts = farPrices(request, around.last ?? around.against[0]?.price ?? null);
  const best = around.against[0]?.price;
  if (best !== undefined && found.last !== null && isFar(found.last, best, IMPACT)) {
    texts.push(`it trades from ${best} as far as ${found.last}, more than 2 % away`);
  }
  const shown = around.against.reduce((sum, level) => sum.plus(level.quantity), ZERO);
  if (shown.isPositive && shown.times(SHARE).below(found.filled)) {
    texts.push("it takes more than half of what the other side shows");
  }
  if (!draft.reduceOnly) texts.push(...shortfall(around, found));
  return texts;
}
