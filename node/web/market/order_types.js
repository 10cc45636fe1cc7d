/**
 * Every type of order that the node has: which fields a type needs, and the request that is sent for
 * the values filled in. No elements here.
 */

import { Decimal } from "../core/decimal.js";
import { DISPLAY_QUANTITY, OCO_STOP, TRAILING_OFFSET, WORST_PRICE } from "../core/fields.js";

/** @typedef {import("../core/types.js").Market} Market */

/** @typedef {"limit" | "market" | "stop" | "stop_limit" | "trailing_stop" | "oco"} OrderType */

/** @type {[OrderType, string][]} */
export const TYPES = [
  ["limit", "Limit"],
  ["market", "Market"],
  ["stop", "Stop"],
  ["stop_limit", "Stop-limit"],
  ["trailing_stop", "Trailing stop"],
  ["oco", "One cancels other"],
];

/** @type {[string, string][]} */
export const TIMES_IN_FORCE = [
  ["gtc", "Until cancelled"],
  ["ioc", "Immediate or cancel"],
  ["fok", "Fill or kill"],
  ["gtd", "Until a date"],
];

/** @type {[string, string][]} */
export const VISIBILITIES = [
  ["shown", "Shown"],
  ["iceberg", "Iceberg"],
  ["hidden", "Hidden"],
];

/** @type {[string, string][]} */
export const SELF_TRADE = [
  ["", "As the account"],
  ["none", "Allow"],
  ["cancel_newest", "Cancel newest"],
  ["cancel_oldest", "Cancel oldest"],
  ["cancel_both", "Cancel both"],
  ["decrement", "Decrement"],
];

/**
 * Values filled in. Texts are as typed.
 * @typedef {object} Draft
 * @property {string} market
 * @property {"buy" | "sell"} side
 * @property {OrderType} type
 * @property {string} quantity
 * @property {string} price
 * @property {string} stop
 * @property {string} offset distance of a trailing stop
 * @property {string} ocoStop
 * @property {string} worst
 * @property {string} tif
 * @property {string} expires local date and time
 * @property {string} visibility
 * @property {string} display
 * @property {boolean} postOnly
 * @property {boolean} reduceOnly
 * @property {string} selfTrade
 * @property {string} group
 */

/** @typedef {Exclude<keyof Draft, "market" | "side" | "type">} FieldName */

/**
 * @param {string} market
 * @returns {Draft}
 */
export function emptyDraft(market) {
  return {
    market,
    side: "buy",
    type: "limit",
    quantity: "",
    price: "",
    stop: "",
    offset: "",
    ocoStop: "",
    worst: "",
    tif: "gtc",
    expires: "",
    visibility: "shown",
    display: "",
    postOnly: false,
    reduceOnly: false,
    selfTrade: "",
    group: "",
  };
}

/**
 * Whether the order can rest in the book when it enters.
 * @param {Draft} draft
 */
function rests(draft) {
  const priced = draft.type === "limit" || draft.type === "stop_limit" || draft.type === "oco";
  return priced && (draft.tif === "gtc" || draft.tif === "gtd");
}

/** @param {Draft} draft */
function timesFor(draft) {
  if (draft.type === "market") return ["gtc", "fok"];
  return draft.type === "oco" ? ["gtc", "gtd"] : ["gtc", "ioc", "fok", "gtd"];
}

/**
 * The times in force that a type can have. A market order never rests: its choice is fill or kill, or immediate or cancel.
 * @param {Draft} draft
 * @returns {[string, string][]}
 */
export function timeChoices(draft) {
  const allowed = timesFor(draft);
  return TIMES_IN_FORCE.filter(([name]) => allowed.includes(name)).map(([name, label]) =>
    draft.type === "market" && name === "gtc" ? [name, "What there is"] : [name, label],
  );
}

/** @type {Record<OrderType, FieldName[]>} */
const PRICES = {
  limit: ["price"],
  market: ["worst"],
  stop: ["stop", "worst"],
  stop_limit: ["stop", "price"],
  trailing_stop: ["stop", "offset"],
  oco: ["price", "ocoStop"],
};

/**
 * The fields that this draft needs or may have, in the order they are shown.
 * @param {Draft} draft
 * @returns {Set<FieldName>}
 */
export function fieldsFor(draft) {
  /** @type {Set<FieldName>} */
  const fields = new Set(["quantity", "tif", "reduceOnly", "selfTrade", "group", ...PRICES[draft.type]]);
  if (draft.tif === "gtd" && draft.type !== "market") fields.add("expires");
  if (rests(draft)) addResting(draft, fields);
  return fields;
}

/** @param {Draft} draft @param {Set<FieldName>} fields */
function addResting(draft, fields) {
  const pair = draft.type === "oco";
  if (!draft.postOnly && !pair) fields.add("visibility");
  if (draft.visibility === "iceberg" && fields.has("visibility")) fields.add("display");
  if (draft.visibility !== "hidden" || pair) fields.add("postOnly");
}

/** A field with a wrong value, and the remedy. */
export class Mistake extends Error {
  /** @param {FieldName} field @param {string} message */
  constructor(field, message) {
    super(message);
    this.field = field;
  }
}

/**
 * A positive multiple of a step.
 * @param {FieldName} field
 * @param {string} name
 * @param {string} text
 * @param {string} step
 * @returns {string} as the node writes it
 */
function steps(field, name, text, step) {
  const value = Decimal.parse(text);
  if (value === null || !value.isPositive) {
    throw new Mistake(field, `${name}: type a positive number such as 0.5`);
  }
  if (!value.isMultipleOf(Decimal.of(step))) {
    const near = value.toStep(Decimal.of(step), "down");
    const instead = near.isZero ? step : near.toString();
    throw new Mistake(field, `${name}: goes in steps of ${step}, e.g. ${instead}`);
  }
  return value.toString();
}

/** @param {Draft} draft @returns {string} ISO 8601 in UTC */
function expiry(draft) {
  const time = new Date(draft.expires);
  if (Number.isNaN(time.getTime())) throw new Mistake("expires", "Expires: choose a date and time");
  if (time.getTime() <= Date.now()) throw new Mistake("expires", "Expires: choose a time to come");
  return time.toISOString();
}

/**
 * The request for POST /v1/orders, without a client id.
 * @param {Draft} draft
 * @param {Market} market
 * @returns {Record<string, string | number | boolean>}
 * @throws {Mistake}
 */
export function requestOf(draft, market) {
  const fields = fieldsFor(draft);
  /** @type {Record<string, string | number | boolean>} */
  const request = {
    market: market.symbol,
    side: draft.side,
    quantity: steps("quantity", "Quantity", draft.quantity, market.lot),
  };
  /** @type {[FieldName, string, string, string, boolean][]} field, name in the API, label, step, needed */
  const numbers = [
    ["price", "price", "Price", market.tick, true],
    ["stop", "stop", "Stop", market.tick, draft.type !== "trailing_stop"],
    ["offset", TRAILING_OFFSET, "Distance", market.tick, true],
    ["ocoStop", OCO_STOP, "Stop", market.tick, true],
    ["worst", WORST_PRICE, "Worst price", market.tick, false],
    ["display", DISPLAY_QUANTITY, "On show", market.lot, true],
  ];
  for (const [field, name, label, step, needed] of numbers) {
    const text = /** @type {string} */ (draft[field]);
    if (fields.has(field) && (needed || text.trim() !== "")) {
      request[name] = steps(field, label, text, step);
    }
  }
  addTerms(draft, fields, request);
  return request;
}

/** @param {Draft} draft @param {Set<FieldName>} fields @param {Record<string, string | number | boolean>} request */
function addTerms(draft, fields, request) {
  if (timesFor(draft).includes(draft.tif) && draft.tif !== "gtc") request["tif"] = draft.tif;
  if (fields.has("expires")) request["expires"] = expiry(draft);
  if (fields.has("visibility") && draft.visibility === "hidden") request["hidden"] = true;
  if (fields.has("postOnly") && draft.postOnly) request["post_only"] = true;
  if (draft.reduceOnly) request["reduce_only"] = true;
  if (draft.selfTrade !== "") request["self_trade"] = draft.selfTrade;
  if (draft.group.trim() !== "") {
    const group = Number(draft.group);
    if (!Number.isInteger(group) || group < 0) {
      throw new Mistake("group", "Group: type a whole number, or leave it empty");
    }
    request["group"] = group;
  }
}
