/** Between nodes: positions, payments that would even them out, credit limits, reconciliation. */

import { explain } from "../core/api.js";
import { Table, button, confirm, field, fill, h, select, toast } from "../core/dom.js";
import { shortId } from "../core/format.js";
import { Scope } from "../core/state.js";
import { badge, guarded, panel } from "./sheet.js";

/**
 * @typedef {{peer: string, asset: string, balance: string, limit: string | null, room: string | null}} Position
 * @typedef {{peer: string, asset: string, amount: string, direction: "pay" | "collect"}} Obligation
 * @typedef {{peer: string | null, asset: string, limit: string | null, total: string | null, owed: string | null}} Credit
 * @typedef {{asset: string, ours: string, theirs: string, difference: string, unexplained: string}} Agreement
 */

const LOOK = 3000; // ms

/** @param {import("../core/model.js").Model} model */
export function betweenView(model) {
  const scope = new Scope();
  const problem = guarded();
  const result = h("div", { class: "body", role: "status" });
  const positions = positionsTable(model, result);
  const obligations = obligationsTable(model, () => now());
  const credit = creditTable();
  const now = scope.every(LOOK, () =>
    problem.run(async () => {
      const [held, owed, limits] = await Promise.all(
        ["/v1/positions", "/v1/obligations", "/v1/credit"].map((path) => model.api.get(path)),
      );
      if (scope.ended) return;
      positions.update(held);
      obligations.update(owed);
      credit.update(limits);
    }),
  );
  const element = h(
    "div",
    { class: "sheet" },
    h("h1", { class: "unseen", text: "Between nodes" }),
    panel("Positions", "half", problem.element, positions.element),
    panel("Payments that even them out", "half", obligations.element),
    panel("Credit limits", "half", creditForm(model, () => now()), credit.element),
    panel("Reconciliation", "half", result),
  );
  fill(result, h("p", { class: "muted", text: "Reconcile compares what this node and a peer say of each other." }));
  return { element, stop: () => scope.end() };
}

/** @param {import("../core/model.js").Model} model @param {HTMLElement} result @returns {Table<Position>} */
function positionsTable(model, result) {
  return new Table(
    "Positions with other nodes",
    [
      { title: "Node", text: (p) => shortId(p.peer) },
      { title: "Asset", text: (p) => p.asset },
      {
        title: "Balance",
        text: (p) => (p.balance.startsWith("-") ? `owes us ${p.balance.slice(1)}` : `we owe ${p.balance}`),
        class: (p) => (p.balance.startsWith("-") ? "up" : "down"),
        numeric: true,
      },
      { title: "Limit", text: (p) => p.limit ?? "none", numeric: true },
      { title: "Room", text: (p) => p.room ?? "any", numeric: true },
      {
        title: "",
        make: (cell, row) => {
          const act = () => void reconcile(model, row().peer, result);
          cell.append(button("Reconcile", act, { "aria-label": `reconcile with ${shortId(row().peer)}` }));
        },
      },
    ],
    (p) => `${p.peer} ${p.asset}`,
    "Nothing is open with other nodes.",
  );
}

/** @param {import("../core/model.js").Model} model @param {string} peer @param {HTMLElement} result */
async function reconcile(model, peer, result) {
  fill(result, h("p", {}, `Comparing with ${shortId(peer)} …`));
  try {
    const found = await model.api.get(`/v1/reconciliations/${peer}`);
    /** @type {Table<Agreement>} */
    const table = new Table(
      "What both say",
      [
        { title: "Asset", text: (a) => a.asset },
        { title: "Ours", text: (a) => a.ours, numeric: true },
        { title: "Theirs", text: (a) => a.theirs, numeric: true },
        { title: "Difference", text: (a) => a.difference, numeric: true },
        { title: "Unexplained", text: (a) => a.unexplained, numeric: true },
      ],
      (a) => a.asset,
      "No assets in common.",
    );
    table.update(found.assets);
    const verdict = found.agree ? badge("both agree", "good") : badge("they differ", "bad");
    const counts = ` ${found.trades_count} trades here, ${found.peer_trades_count} there; ${found.trades.length} differ, ${found.pending.length} pending.`;
    const save = button("Save the statements", () => download(`reconciliation-${shortId(peer)}.json`, found.evidence), {
      title: "What both nodes signed; exchange-node ledger verify FILE checks it",
    });
    fill(result, h("p", {}, `With ${shortId(peer)}: `, verdict, counts), table.element, h("div", { class: "inline" }, save));
  } catch (error) {
    fill(result, h("p", { class: "problem" }, explain(error)));
  }
}

/** Save a value as a file of JSON. @param {string} name @param {unknown} value */
function download(name, value) {
  const url = URL.createObjectURL(new Blob([JSON.stringify(value, null, 1)], { type: "application/json" }));
  h("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}

/** @param {import("../core/model.js").Model} model @param {() => void} changed @returns {Table<Obligation>} */
function obligationsTable(model, changed) {
  return new Table(
    "Payments",
    [
      { title: "Node", text: (o) => shortId(o.peer) },
      { title: "Payment", text: (o) => `${o.direction} ${o.amount} ${o.asset}`, class: (o) => (o.direction === "pay" ? "down" : "up") },
      {
        title: "",
        make: (cell, row) => {
          cell.append(
            button("Record it", () => void settle(model, row(), changed), {
              "aria-label": `record it: the payment with ${shortId(row().peer)} in ${row().asset}`,
            }),
          );
        },
      },
    ],
    (o) => `${o.peer} ${o.asset}`,
    "Nothing to pay or collect.",
  );
}

/** @param {import("../core/model.js").Model} model @param {Obligation} owed @param {() => void} changed */
async function settle(model, owed, changed) {
  const word = owed.direction === "pay" ? "paid to" : "received from";
  const text = `${owed.amount} ${owed.asset} ${word} ${shortId(owed.peer)}, outside of this system.`;
  if (!(await confirm("Record a payment?", [h("p", {}, text)], "Record it"))) return;
  const { peer, asset, amount } = owed;
  try {
    const direction = owed.direction === "pay" ? "paid" : "received";
    await model.api.post("/v1/settlements", { peer, asset, amount, direction });
    toast("Recorded. The other side records it as well.", "good");
    changed();
  } catch (error) {
    toast(explain(error), "bad");
  }
}

/** @returns {Table<Credit>} */
function creditTable() {
  return new Table(
    "Credit limits",
    [
      { title: "Node", text: (c) => (c.peer === null ? "every other node" : shortId(c.peer)) },
      { title: "Asset", text: (c) => c.asset },
      { title: "May owe", text: (c) => c.limit ?? "any amount", numeric: true },
      { title: "All together", text: (c) => (c.peer === null ? `${c.owed} of ${c.total ?? "any amount"}` : ""), numeric: true },
    ],
    (c) => `${c.peer} ${c.asset}`,
    "No limits: other nodes may come to owe any amount.",
  );
}

/** @param {import("../core/model.js").Model} model @param {() => void} changed */
function creditForm(model, changed) {
  const assets = [...new Set(model.markets.value.flatMap((m) => [m.base, m.quote]))].sort();
  const asset = select(assets.map((each) => [each, each]), assets[0] ?? "");
  const peer = h("input", { type: "text", placeholder: "every node", autocomplete: "off" });
  const limit = h("input", { type: "text", inputmode: "decimal", placeholder: "none", autocomplete: "off" });
  const form = h(
    "form",
    { class: "inline", novalidate: true },
    field("Asset", asset),
    field("Node (beginning of its id)", peer),
    field("May come to owe", limit),
    h("button", { type: "submit" }, "Set limit"),
  );
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const body = { asset: asset.value, peer: peer.value.trim() || null, limit: limit.value.trim() || null };
    try {
      await model.api.post("/v1/credit", body);
      toast("The limit is set.", "good");
      changed();
    } catch (error) {
      toast(explain(error), "bad");
    }
  });
  return form;
}
