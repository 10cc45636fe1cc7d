/** The operator's accounts: deposits and withdrawals, keys, limits, halts, fees. */

import { explain } from "../core/api.js";
import { Table, button, confirm, field, fill, h, select, toast } from "../core/dom.js";
import { moment } from "../core/format.js";
import { Scope } from "../core/state.js";
import { badge, guarded, panel } from "./sheet.js";

/**
 * @typedef {{number: number, name: string, created: string | null, frozen: boolean, max_open_orders: number, orders_per_minute: number}} AccountRow
 * @typedef {{key: string, permissions: string[], label: string, created: string, revoked: string | null}} Key
 * @typedef {import("../core/types.js").Balance} Balance
 * @typedef {import("../core/types.js").Fees} Fees
 */

const LOOK = 3000; // ms

/** @param {import("../core/model.js").Model} model */
export function accountsView(model) {
  const scope = new Scope();
  const problem = guarded();
  const state = { chosen: "0" };
  const keys = keysTable(model, () => now());
  const balances = balancesTable();
  const fees = feesTable();
  const accounts = accountsTable(model, () => now());
  const halts = haltsTable(model);
  const choice = select([["0", "the house"]], "0", (value) => {
    state.chosen = value;
    now();
  });
  choice.setAttribute("aria-label", "account");
  const now = scope.every(LOOK, () =>
    problem.run(async () => {
      const account = state.chosen;
      /** @type {AccountRow[]} */
      const rows = await model.api.get("/v1/accounts");
      const [held, own, costs] = await Promise.all([
        model.api.get("/v1/balances", { account }),
        model.api.get(`/v1/accounts/${account}/keys`),
        model.api.get("/v1/fees", { account }),
      ]);
      if (scope.ended || account !== state.chosen) return;
      accounts.update(rows);
      offer(choice, rows);
      balances.update(held);
      keys.update(own);
      fees.update(costs);
      halts.update(model.markets.value.map(({ symbol }) => ({ symbol, halt: model.halts.value.get(symbol)?.reason ?? null })));
    }),
  );
  const money = panel("Money", "half", moneyForm(model, state, () => now()), balances.element);
  money.querySelector("header")?.append(choice);
  const element = h(
    "div",
    { class: "sheet" },
    h("h1", { class: "unseen", text: "Accounts" }),
    panel("Accounts", "", problem.element, createForm(model, () => now()), accounts.element),
    money,
    panel("API keys", "half", keyForm(model, state, () => now()), keys.element),
    panel("Markets", "half", halts.element),
    panel("Fees", "half", fees.element),
  );
  return { element, stop: () => scope.end() };
}

/** @param {HTMLSelectElement} choice @param {AccountRow[]} rows */
function offer(choice, rows) {
  const known = new Set([...choice.options].map((option) => option.value));
  for (const { number, name } of rows) {
    if (!known.has(String(number))) choice.append(h("option", { value: number }, name));
  }
}

/**
 * Run an action and show its outcome.
 * @param {string} done
 * @param {() => Promise<unknown>} work
 * @param {() => void} changed
 */
async function act(done, work, changed) {
  try {
    await work();
    toast(done, "good");
    changed();
  } catch (error) {
    toast(explain(error), "bad");
  }
}

/** @param {import("../core/model.js").Model} model @param {() => void} changed */
function createForm(model, changed) {
  const name = h("input", { type: "text", autocomplete: "off", spellcheck: "false" });
  const form = h("form", { class: "inline", novalidate: true }, field("Name", name), h("button", { type: "submit" }, "Create account"));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const body = { name: name.value.trim() };
    void act(`${body.name} has an account.`, () => model.api.post("/v1/accounts", body), () => {
      name.value = "";
      changed();
    });
  });
  return form;
}

/** @param {import("../core/model.js").Model} model @param {() => void} changed @returns {Table<AccountRow>} */
function accountsTable(model, changed) {
  const freeze = (/** @type {AccountRow} */ row) =>
    act(
      row.frozen ? `${row.name} trades again.` : `${row.name} is frozen; its orders were cancelled.`,
      () => model.api.send("PATCH", `/v1/accounts/${row.number}`, {}, { frozen: !row.frozen }),
      changed,
    );
  return new Table(
    "Accounts",
    [
      { title: "Number", text: (a) => String(a.number), numeric: true },
      { title: "Name", text: (a) => a.name },
      { title: "State", text: (a) => (a.frozen ? "frozen" : "open"), class: (a) => (a.frozen ? "down" : "") },
      { title: "Open orders at most", text: (a) => String(a.max_open_orders), numeric: true },
      { title: "Orders a minute", text: (a) => String(a.orders_per_minute), numeric: true },
      { title: "Created", text: (a) => moment(a.created) },
      {
        title: "",
        make: (cell, row) => {
          if (row().number !== 0) cell.append(button("", () => void freeze(row())));
        },
        update: (cell, a) => {
          if (cell.firstElementChild === null) return;
          cell.firstElementChild.textContent = a.frozen ? "Unfreeze" : "Freeze";
          cell.firstElementChild.setAttribute("aria-label", `${a.frozen ? "unfreeze" : "freeze"} ${a.name}`);
        },
      },
    ],
    (a) => String(a.number),
    "No accounts.",
  );
}

/** @param {import("../core/model.js").Model} model @param {{chosen: string}} state @param {() => void} changed */
function moneyForm(model, state, changed) {
  const assets = [...new Set(model.markets.value.flatMap((m) => [m.base, m.quote]))].sort();
  const amount = h("input", { type: "text", inputmode: "decimal", autocomplete: "off" });
  const asset = select(assets.map((each) => [each, each]), assets.includes("USD") ? "USD" : (assets[0] ?? ""));
  const note = h("input", { type: "text", autocomplete: "off" });
  const move = (/** @type {string} */ where) => () => {
    const body = { asset: asset.value, amount: amount.value.trim(), note: note.value.trim() };
    const done = `${body.amount} ${body.asset}: ${where === "deposits" ? "deposited" : "withdrawn"}.`;
    void act(done, () => model.api.post(`/v1/accounts/${state.chosen}/${where}`, body), () => {
      amount.value = "";
      changed();
    });
  };
  return h(
    "div",
    { class: "inline" },
    field("Amount", amount),
    field("Asset", asset),
    field("Note", note),
    button("Deposit", move("deposits")),
    button("Withdraw", move("withdrawals")),
  );
}

/** @returns {Table<Balance>} */
function balancesTable() {
  return new Table(
    "Balances",
    [
      { title: "Asset", text: (b) => b.asset },
      { title: "Total", text: (b) => b.total, numeric: true },
      { title: "Held by orders", text: (b) => b.held, numeric: true },
      { title: "Available", text: (b) => b.available, numeric: true },
    ],
    (b) => b.asset,
    "No balances.",
  );
}

/** @param {import("../core/model.js").Model} model @param {{chosen: string}} state @param {() => void} changed */
function keyForm(model, state, changed) {
  const label = h("input", { type: "text", autocomplete: "off" });
  const may = select(
    [
      ["read,trade", "Read and trade"],
      ["read", "Read only"],
      ["trade", "Trade only"],
    ],
    "read,trade",
  );
  const make = async () => {
    try {
      const body = { label: label.value.trim(), permissions: may.value.split(",") };
      const key = await model.api.post(`/v1/accounts/${state.chosen}/keys`, body);
      changed();
      showSecret(`${key.key}:${key.secret}`);
    } catch (error) {
      toast(explain(error), "bad");
    }
  };
  return h("div", { class: "inline" }, field("Label", label), field("May", may), button("Make a key", () => void make()));
}

/** @param {string} credentials */
function showSecret(credentials) {
  const text = h("code", { class: "secret", tabindex: "0" }, credentials);
  void confirm("A new API key", [h("p", {}, "Key and secret. The secret is shown this once:"), text], "I have it");
}

/** @param {import("../core/model.js").Model} model @param {() => void} changed @returns {Table<Key>} */
function keysTable(model, changed) {
  const revoke = async (/** @type {Key} */ key) => {
    if (!(await confirm("Revoke this key?", [h("p", {}, `${key.label || key.key}: programs with it stop within seconds.`)], "Revoke it"))) return;
    await act("The key is revoked.", () => model.api.send("DELETE", `/v1/keys/${key.key}`), changed);
  };
  return new Table(
    "API keys",
    [
      { title: "Key", text: (k) => `${k.key.slice(0, 10)}…` },
      { title: "Label", text: (k) => k.label },
      { title: "May", text: (k) => k.permissions.join(", ") },
      { title: "Created", text: (k) => moment(k.created) },
      {
        title: "",
        make: (cell, row) => cell.append(button("Revoke", () => void revoke(row()), { "aria-label": `revoke ${row().label || row().key}` })),
        update: (cell, k) => {
          if (k.revoked !== null && cell.textContent !== "revoked") fill(cell, badge("revoked", "bad"));
        },
      },
    ],
    (k) => k.key,
    "No keys.",
  );
}

/** @param {import("../core/model.js").Model} model @returns {Table<{symbol: string, halt: string | null}>} */
function haltsTable(model) {
  const halt = async (/** @type {string} */ symbol) => {
    const reason = h("input", { type: "text", autocomplete: "off" });
    if (!(await confirm(`Halt ${symbol}?`, [field("Reason", reason, "Shown to everybody whose order is refused.")], "Halt it"))) return;
    const body = { reason: reason.value.trim() || "halted by the operator" };
    await act(`${symbol} is halted.`, () => model.api.post(`/v1/markets/${symbol}/halt`, body), () => {});
  };
  const resume = (/** @type {string} */ symbol) =>
    act(`${symbol} is open.`, () => model.api.send("POST", `/v1/markets/${symbol}/resume`), () => {});
  return new Table(
    "Markets",
    [
      { title: "Market", text: (m) => m.symbol },
      { title: "State", text: (m) => (m.halt === null ? "open" : `halted: ${m.halt}`), class: (m) => (m.halt === null ? "" : "down") },
      {
        title: "",
        make: (cell, row) => {
          cell.append(button("", () => void (row().halt === null ? halt(row().symbol) : resume(row().symbol))));
        },
        update: (cell, m) => {
          const word = m.halt === null ? "Halt" : "Resume";
          const target = /** @type {Element} */ (cell.firstElementChild);
          target.textContent = word;
          target.setAttribute("aria-label", `${word.toLowerCase()} ${m.symbol}`);
        },
      },
    ],
    (m) => m.symbol,
    "No markets.",
  );
}

/** @returns {Table<Fees>} */
function feesTable() {
  return new Table(
    "Fees as a fraction of what is received",
    [
      { title: "Market", text: (f) => f.market },
      { title: "Maker", text: (f) => f.maker_fee, numeric: true },
      { title: "Taker", text: (f) => f.taker_fee, numeric: true },
    ],
    (f) => f.market,
    "No fees.",
  );
}
