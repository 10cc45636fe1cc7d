/** The desk: the own nodes together, as DESK_PROFILE names them. Read only. */

import { Table, fill, h } from "../core/dom.js";
import { moment, shortId, words } from "../core/format.js";
import { Scope } from "../core/state.js";
import { badge, guarded, panel } from "./sheet.js";

/**
 * @typedef {import("../core/types.js").Order} Order
 * @typedef {{name: string, node_id: string | null, code: string | null, error: string | null}} Member
 * @typedef {{version: string, peers_connected: number, open_orders: number, warnings: string[]}} Status
 * @typedef {Member & {status: Status | null}} MemberRow
 * @typedef {{asset: string, total: string, held: string, available: string}} Amounts
 * @typedef {Amounts & {node: string, sum: boolean}} BalanceRow
 * @typedef {{node: string, order: Order}} OrderRow
 * @typedef {{id: string, order_id: string, market: string, side: string, price: string, quantity: string, counterparty: string, time: string}} Fill
 * @typedef {{node: string, internal: boolean, fill: Fill}} TradeRow
 * @typedef {{peer: string, asset: string, net: string}} Owed
 */

const LOOK = 5000; // ms
const PATHS = ["status", "balances", "orders", "trades", "obligations"].map((name) => `/v1/desk/${name}`);

/** @param {import("../core/model.js").Model} model */
export function deskView(model) {
  const scope = new Scope();
  const problem = guarded();
  const [nodes, balances, orders, trades] = [nodeTable(), balanceTable(), orderTable(), tradeTable()];
  const [owed, apart] = [owedTable(), h("div", { class: "body", role: "status" })];
  const heading = h("h1", { class: "unseen", text: "Desk" });
  if (!model.session.value?.desk) {
    return { element: h("div", { class: "sheet" }, heading, panel("Desk", "", howTo())), stop: () => {} };
  }
  const element = h(
    "div",
    { class: "sheet" },
    heading,
    panel("Nodes", "", problem.element, nodes.element),
    panel("Balances", "half", balances.element),
    panel("Owed to and by other nodes", "half", owed.element, apart),
    panel("Open orders", "", orders.element),
    panel("Trades", "", trades.element),
  );
  scope.every(LOOK, () =>
    problem.run(async () => {
      const [state, money, open, traded, due] = await Promise.all(PATHS.map((path) => model.api.get(path)));
      if (scope.ended) return;
      /** @type {Map<string, Status>} */
      const found = new Map(state.status.map((/** @type {{node: string, status: Status}} */ row) => [row.node, row.status]));
      nodes.update(state.nodes.map((/** @type {Member} */ node) => ({ ...node, status: found.get(node.name) ?? null })));
      balances.update(balanceRows(money));
      orders.update(open.orders);
      trades.update(traded.trades);
      owed.update(due.obligations);
      showApart(apart, due.own);
    }),
  );
  return { element, stop: () => scope.end() };
}

function howTo() {
  return h(
    "div",
    { class: "body" },
    h("p", {}, "Several own nodes are shown here together: balances, orders, trades, and what they owe others or are owed."),
    h("p", {}, "Name them in a file, and start this node with DESK_PROFILE=FILE:"),
    h("pre", {}, '[[node]]\nname = "alice"\ndata_dir = "/srv/alice"\n\n[[node]]\nname = "bob"\napi = "https://10.0.0.2:8300"\nca_file = "bob.pem"\nkey_file = "bob.key"'),
    h("p", {}, "The same from the command line: exchange-node desk --help."),
  );
}

/** @returns {Table<MemberRow>} */
function nodeTable() {
  /** @param {(status: Status) => string} text @returns {(row: MemberRow) => string} */
  const of = (text) => (row) => (row.status === null ? "–" : text(row.status));
  return new Table(
    "Own nodes",
    [
      { title: "Node", text: (n) => n.name },
      { title: "Id", text: (n) => (n.node_id === null ? "–" : shortId(n.node_id)) },
      { title: "Version", text: of((s) => s.version) },
      { title: "Peers", text: of((s) => String(s.peers_connected)), numeric: true },
      { title: "Open orders", text: of((s) => String(s.open_orders)), numeric: true },
      {
        title: "State",
        text: (n) => n.error ?? (n.status?.warnings.join("; ") || "answers"),
        class: (n) => (n.error === null ? "wrap" : "wrap down"),
      },
    ],
    (n) => n.name,
    "The profile names no node.",
  );
}

/**
 * Balances by asset, each asset's sum after those of its nodes.
 * @param {{balances: {node: string, balance: Amounts}[], totals: Amounts[]}} money
 * @returns {BalanceRow[]}
 */
function balanceRows(money) {
  return money.totals.flatMap((total) => [
    ...money.balances
      .filter((row) => row.balance.asset === total.asset)
      .map((row) => ({ ...row.balance, node: row.node, sum: false })),
    { ...total, node: "all", sum: true },
  ]);
}

/** @returns {Table<BalanceRow>} */
function balanceTable() {
  return new Table(
    "Balances by asset and node",
    [
      { title: "Asset", text: (b) => b.asset },
      { title: "Node", text: (b) => b.node, class: (b) => (b.sum ? "sum" : "") },
      { title: "Total", text: (b) => b.total, numeric: true },
      { title: "Held", text: (b) => b.held, numeric: true },
      { title: "Available", text: (b) => b.available, numeric: true },
    ],
    (b) => `${b.asset} ${b.sum ? "" : `of ${b.node}`}`,
    "No balances yet.",
  );
}

/** @returns {Table<OrderRow>} */
function orderTable() {
  return new Table(
    "Open orders of all own nodes, newest first",
    [
      { title: "Node", text: (o) => o.node },
      { title: "Market", text: (o) => o.order.market },
      { title: "Side", text: (o) => o.order.side, class: (o) => o.order.side },
      { title: "Type", text: (o) => words(o.order.type) },
      { title: "Quantity", text: (o) => o.order.quantity, numeric: true },
      { title: "Price", text: (o) => o.order.price ?? "market", numeric: true },
      { title: "Filled", text: (o) => o.order.filled, numeric: true },
      { title: "Since", text: (o) => moment(o.order.created) },
    ],
    (o) => `${o.node} ${o.order.id}`,
    "No open orders.",
  );
}

/** @returns {Table<TradeRow>} */
function tradeTable() {
  return new Table(
    "Own trades, newest first; one between two own nodes once, as its taker sees it",
    [
      { title: "Time", text: (t) => moment(t.fill.time) },
      { title: "Node", text: (t) => t.node },
      { title: "Market", text: (t) => t.fill.market },
      { title: "Side", text: (t) => t.fill.side, class: (t) => t.fill.side },
      { title: "Quantity", text: (t) => t.fill.quantity, numeric: true },
      { title: "Price", text: (t) => t.fill.price, numeric: true },
      { title: "With", text: (t) => `${shortId(t.fill.counterparty)}${t.internal ? " (own)" : ""}` },
    ],
    (t) => `${t.node} ${t.fill.id} ${t.fill.order_id}`,
    "No trades yet.",
  );
}

/** @returns {Table<Owed>} */
function owedTable() {
  const pays = (/** @type {Owed} */ o) => o.net.startsWith("-");
  return new Table(
    "Net payments of all own nodes together",
    [
      { title: "Node", text: (o) => shortId(o.peer) },
      {
        title: "Payment",
        text: (o) => (pays(o) ? `pay ${o.net.slice(1)} ${o.asset}` : `collect ${o.net} ${o.asset}`),
        class: (o) => (pays(o) ? "down" : "up"),
      },
    ],
    (o) => `${o.peer} ${o.asset}`,
    "Nothing is open with nodes outside.",
  );
}

/** What own nodes say of each other and do not agree on. @param {HTMLElement} host @param {Owed[]} own */
function showApart(host, own) {
  const differ = own.filter((each) => /[1-9]/.test(each.net));
  fill(host, ...differ.map((each) => badge(`own nodes differ by ${each.net} ${each.asset}`, "bad")));
}
