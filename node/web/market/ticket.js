/** The ticket: an order of any type, with a preview before it is sent. */

import { Unanswered, explain } from "../core/api.js";
import { Decimal, ZERO } from "../core/decimal.js";
import { confirm, field, fill, freshId, h, select, setText, toast } from "../core/dom.js";
import { Scope } from "../core/state.js";
import { outcome } from "../own/texts.js";
import {
  Mistake,
  SELF_TRADE,
  TYPES,
  VISIBILITIES,
  emptyDraft,
  fieldsFor,
  requestOf,
  timeChoices,
} from "./order_types.js";
import { preview } from "./preview.js";
import { PendingOrders } from "./pending.js";
import { PreviewList } from "./preview_list.js";
import { newClientId, place } from "./submit.js";

/** @typedef {import("../core/types.js").Side} Side */
/** @typedef {import("../core/types.js").Order} Order */
/** @typedef {import("./order_types.js").Draft} Draft */
/** @typedef {import("./order_types.js").FieldName} FieldName */

const REFRESH = 250; // ms between two previews while the book changes

/** @type {[FieldName, string][]} fields that are typed in */
const TEXTS = [
  ["stop", "Stop"],
  ["offset", "Distance"],
  ["price", "Price"],
  ["ocoStop", "Stop of the second order"],
  ["quantity", "Quantity"],
  ["worst", "Worst price"],
  ["display", "On show at a time"],
  ["group", "Group"],
];

export class Ticket {
  #scope = new Scope();
  #sending = false;
  /** @type {Set<string>} nodes that gave this one reason to doubt their answers */
  #doubtful = new Set();
  /** Of the draft as it stands: the same again is the same order. */
  #clientId = newClientId();

  /**
   * @param {import("../core/model.js").Model} model
   * @param {import("./feed.js").MarketFeed} feed
   * @param {import("../own/account.js").Account} account
   * @param {import("../core/types.js").Market} market
   */
  constructor(model, feed, account, market) {
    this.model = model;
    this.feed = feed;
    this.account = account;
    this.market = market;
    this.draft = emptyDraft(market.symbol);
    this.preview = new PreviewList();
    this.problem = h("p", { class: "problem", role: "alert" });
    this.status = h("p", { class: "status", role: "status" });
    this.send = h("button", { type: "submit", class: "send" });
    this.type = select(/** @type {[string, string][]} */ (TYPES), this.draft.type, (value) => {
      this.draft.type = /** @type {import("./order_types.js").OrderType} */ (value);
      this.#changed(true);
    });
    this.inputs = this.#inputs();
    this.sides = this.#sides();
    this.fields = h("div", { class: "fields" });
    this.more = h("details", {}, h("summary", {}, "More"), h("div", { class: "fields" }));
    this.form = h(
      "form",
      { novalidate: true, on: { submit: (/** @type {Event} */ event) => void this.#submit(event) } },
      this.sides.element,
      field("Order type", this.type),
      this.fields,
      this.more,
      this.problem,
      this.preview.element,
      this.send,
      this.status,
    );
    this.element = h(
      "section",
      { class: "panel ticket", "aria-label": "order ticket" },
      h("header", {}, h("h2", { text: "Order" }), h("span", { class: "muted", text: market.symbol })),
      this.form,
    );
    this.#layOut();
    this.#scope.every(REFRESH, () => this.#preview());
    if (model.isOperator) this.#scope.add(model.stream.subscribe({ channel: "peers", conflate_ms: 1000 }, (m) => this.#doubt(m)));
    this.#scope.add(model.stream.connection.follow(() => this.#preview()));
    this.#scope.add(model.halts.follow(() => this.#preview()));
    this.#scope.add(feed.trades.follow(() => this.send.disabled && this.#preview()));
  }

  stop() {
    this.#scope.end();
  }

  /** @param {{peers: {node_id: string | null, reputation?: string | null}[]}} message */
  #doubt({ peers }) {
    const doubtful = peers.filter(({ reputation }) => reputation === "unreliable" || reputation === "abusive");
    this.#doubtful = new Set(doubtful.map(({ node_id }) => node_id ?? ""));
  }

  #inputs() {
    /** @type {Map<FieldName, HTMLInputElement | HTMLSelectElement>} */
    const inputs = new Map();
    for (const [name] of TEXTS) {
      const input = h("input", { type: "text", inputmode: "decimal", autocomplete: "off", spellcheck: "false" });
      input.addEventListener("input", () => {
        Object.assign(this.draft, { [name]: input.value });
        this.#changed(false);
      });
      if (name === "quantity") input.addEventListener("keydown", (event) => this.#step(event, input));
      if (name === "price") input.addEventListener("keydown", (event) => this.#step(event, input));
      inputs.set(name, input);
    }
    const expires = h("input", { type: "datetime-local" });
    expires.addEventListener("input", () => {
      this.draft.expires = expires.value;
      this.#changed(false);
    });
    inputs.set("expires", expires);
    for (const [name, choices] of /** @type {[FieldName, [string, string][]][]} */ ([
      ["tif", timeChoices(this.draft)],
      ["visibility", VISIBILITIES],
      ["selfTrade", SELF_TRADE],
    ])) {
      const choice = select(choices, String(this.draft[name]), (value) => {
        Object.assign(this.draft, { [name]: value });
        this.#changed(true);
      });
      inputs.set(name, choice);
    }
    for (const name of /** @type {("postOnly" | "reduceOnly")[]} */ (["postOnly", "reduceOnly"])) {
      const box = h("input", { type: "checkbox" });
      box.addEventListener("change", () => {
        this.draft[name] = box.checked;
        this.#changed(true);
      });
      inputs.set(name, box);
    }
    return inputs;
  }

  /** Arrow keys change a number by one step. @param {KeyboardEvent} event @param {HTMLInputElement} input */
  #step(event, input) {
    if (event.key !== "ArrowUp" && event.key !== "ArrowDown") return;
    const price = input === this.inputs.get("price");
    const step = Decimal.of(price ? this.market.tick : this.market.lot);
    const value = Decimal.parse(input.value) ?? ZERO;
    const next = event.key === "ArrowUp" ? value.plus(step) : value.minus(step);
    event.preventDefault();
    input.value = next.isNegative ? "0" : next.toString();
    input.dispatchEvent(new Event("input"));
  }

  #sides() {
    const name = freshId();
    /** @type {Map<Side, HTMLInputElement>} */
    const radios = new Map();
    const labels = /** @type {[Side, string][]} */ ([["buy", "Buy"], ["sell", "Sell"]]).map(([side, text]) => {
      const radio = h("input", { type: "radio", name, value: side, checked: side === "buy" });
      radio.addEventListener("change", () => this.setSide(side));
      radios.set(side, radio);
      return h("label", { class: side }, radio, h("span", { text }));
    });
    const element = h("fieldset", { class: "sides" }, h("legend", { class: "unseen", text: "Side" }), ...labels);
    return { element, radios };
  }

  /** @param {Side} side */
  setSide(side) {
    this.draft.side = side;
    for (const [each, radio] of this.sides.radios) radio.checked = each === side;
    this.#changed(false);
  }

  /** Take over a level of the book. @param {Side} side @param {string} price */
  pick(side, price) {
    const fields = fieldsFor(this.draft);
    const name = ["price", "stop", "worst"].find((each) => fields.has(/** @type {FieldName} */ (each)));
    const input = this.inputs.get(/** @type {FieldName} */ (name ?? "price"));
    if (input !== undefined) input.value = price;
    Object.assign(this.draft, { [name ?? "price"]: price });
    this.setSide(side);
    const quantity = this.inputs.get("quantity");
    quantity?.focus();
  }

  /** @param {Side} side */
  focus(side) {
    this.setSide(side);
    this.inputs.get("quantity")?.focus();
  }

  /** @param {boolean} fields other fields may be needed now */
  #changed(fields) {
    this.#clientId = newClientId();
    setText(this.problem, "");
    if (fields) this.#layOut();
    this.#preview();
  }

  /** Show the fields that the draft needs. Elements are kept with their values. */
  #layOut() {
    const focused = document.activeElement;
    const wanted = fieldsFor(this.draft);
    const tif = /** @type {HTMLSelectElement} */ (this.inputs.get("tif"));
    const choices = timeChoices(this.draft);
    if (!choices.some(([value]) => value === this.draft.tif)) this.draft.tif = "gtc";
    fill(tif, ...choices.map(([value, text]) => h("option", { value, selected: value === this.draft.tif }, text)));
    /** @type {Node[]} */
    const main = [];
    /** @type {Node[]} */
    const more = [];
    const put = (/** @type {FieldName} */ name, /** @type {Node} */ element) =>
      (["group", "selfTrade", "reduceOnly", "worst"].includes(name) ? more : main).push(element);
    for (const [name, label] of TEXTS) {
      const input = this.inputs.get(name);
      if (wanted.has(name) && input) put(name, field(this.#label(name, label), input));
    }
    for (const [name, label] of /** @type {[FieldName, string][]} */ ([
      ["tif", "How long"],
      ["expires", "Expires"],
      ["visibility", "Visibility"],
      ["selfTrade", "Self-trade"],
    ])) {
      const input = this.inputs.get(name);
      if (wanted.has(name) && input) put(name, field(label, input));
    }
    for (const [name, label] of /** @type {[FieldName, string][]} */ ([
      ["postOnly", "Post-only: never take"],
      ["reduceOnly", "Reduce-only"],
    ])) {
      const input = this.inputs.get(name);
      if (wanted.has(name) && input) put(name, h("label", { class: "check" }, input, label));
    }
    fill(this.fields, ...main);
    fill(/** @type {Element} */ (this.more.lastElementChild), ...more);
    if (focused instanceof HTMLElement && this.form.contains(focused)) focused.focus();
  }

  /** @param {FieldName} name @param {string} label */
  #label(name, label) {
    if (name === "quantity" || name === "display") return `${label} (${this.market.base})`;
    if (name === "group") return "Group (number)";
    const optional = name === "worst" || (name === "stop" && this.draft.type === "trailing_stop");
    return `${label} (${this.market.quote})${optional ? ", optional" : ""}`;
  }

  /** @returns {import("./preview.js").Surroundings} */
  #surroundings() {
    const { feed, account, market } = this;
    const buy = this.draft.side === "buy";
    // Against the whole network, also where the ladder shows this node's part alone.
    const half = buy ? feed.book.asks : feed.book.bids;
    const single = buy ? feed.single.asks : feed.single.bids;
    const fees = account.fees.value.get(market.symbol);
    const last = feed.trades.value[0];
    return {
      market,
      against:
        feed.scope === "network"
          ? half.sorted.map(({ price, entry }) => ({ price, quantity: Decimal.of(entry[1]) }))
          : single.sorted.map(({ price, entry }) => ({ price, quantity: Decimal.of(entry[2]) })),
      orders: single.sorted,
      last: last === undefined ? null : Decimal.of(last.price),
      balances: this.model.isHouse
        ? null
        : new Map([...account.balances.value].map(([asset, b]) => [asset, { available: Decimal.of(b.available) }])),
      makerFee: Decimal.of(fees?.maker_fee ?? "0"),
      takerFee: Decimal.of(fees?.taker_fee ?? "0"),
      doubtful: this.#doubtful,
    };
  }

  #preview() {
    const { draft, market } = this;
    const word = draft.side === "buy" ? "Buy" : "Sell";
    setText(this.send, `${word} ${draft.quantity.trim() || "…"} ${market.base}`);
    this.send.className = `send ${draft.side}`;
    const halt = this.model.halts.value.get(market.symbol);
    const away = this.model.stream.connection.value !== "live" || !this.feed.loaded;
    this.send.disabled = this.#sending || halt !== undefined || away;
    try {
      const found = preview(draft, requestOf(draft, market), this.#surroundings());
      this.preview.show(found, market);
    } catch (error) {
      if (!(error instanceof Mistake)) throw error;
      this.preview.show(null, market);
    }
  }

  /** @param {Event} event */
  async #submit(event) {
    event.preventDefault();
    if (this.#sending || !this.feed.loaded) return;
    let request, found;
    try {
      request = requestOf(this.draft, this.market);
      found = preview(this.draft, request, this.#surroundings());
    } catch (error) {
      this.#fault(error);
      return;
    }
    if (found.warnings.length > 0) {
      const list = h("ul", {}, ...found.warnings.map((text) => h("li", {}, text)));
      const title = `${this.send.textContent}?`;
      if (!(await confirm(title, [h("p", {}, "Please look again:"), list], "Send it"))) return;
    }
    await this.#place({ ...request, client_id: this.#clientId });
  }

  /** @param {Record<string, string | number | boolean>} request */
  async #place(request) {
    this.#sending = this.send.disabled = true;
    setText(this.status, "Sending …");
    const tell = (/** @type {string} */ text) => setText(this.status, text);
    const pending = new PendingOrders();
    this.#remember(pending, request);
    try {
      const order = await place(this.model.api, request, this.model.account.value, tell);
      pending.forget(String(request["client_id"]));
      this.#clientId = newClientId();
      this.#tell(order);
    } catch (error) {
      if (!(error instanceof Unanswered)) pending.forget(String(request["client_id"]));
      setText(this.status, "");
      setText(this.problem, explain(error));
    } finally {
      this.#sending = false;
      this.#preview();
    }
  }

  /** @param {PendingOrders} pending @param {Record<string, string | number | boolean>} request */
  #remember(pending, request) {
    const session = this.model.session.value;
    if (session === null) return;
    const price = request["price"] === undefined ? "" : ` at ${request["price"]}`;
    pending.add({
      client_id: String(request["client_id"]),
      node_id: session.node_id,
      account: session.account,
      acted_for: this.model.account.value,
      text: `${request["side"]} ${request["quantity"]} ${request["market"]}${price}`,
    });
  }

  /** Show the outcome of an order, and again when other nodes have decided on a pending part. @param {Order} order */
  #tell(order) {
    const text = outcome(order);
    setText(this.status, text);
    if (order.status !== "pending") {
      toast(text, order.status === "cancelled" ? "bad" : "good");
      return;
    }
    const end = this.account.ended.follow(() => {
      const now = this.account.lately.get(order.id);
      if (now === undefined) return;
      queueMicrotask(() => end()); // not yet known when it has ended already
      this.#tell(now);
    });
    this.#scope.add(end);
  }

  /** @param {unknown} error */
  #fault(error) {
    if (!(error instanceof Mistake)) throw error;
    setText(this.problem, error.message);
    this.inputs.get(error.field)?.focus();
  }
}
