/** The table of open orders: amended in place, and cancelled. */

import { explain } from "../core/api.js";
import { Decimal } from "../core/decimal.js";
import { Table, button, h, setText, toast } from "../core/dom.js";
import { TRAILING_OFFSET, UNTRIGGERED, optional } from "../core/fields.js";
import { moment, words } from "../core/format.js";
import { drawer } from "../core/state.js";
import { flags, outcome, statusText } from "./texts.js";

/** @typedef {import("../core/types.js").Order} Order */
/** @typedef {{title: string, name: (order: Order) => string, value: (order: Order) => string | null}} Editable */

/** A stop that trails is amended by its distance. @param {Order} order */
const offsetOf = (order) => optional(order, TRAILING_OFFSET);

/** Values that can be changed while an order is open, by their names in the API. */
const EDITABLE = /** @type {Editable[]} */ ([
  { title: "Quantity", name: () => "quantity", value: (o) => o.quantity },
  { title: "Price", name: () => "price", value: (o) => o.price },
  {
    title: "Stop",
    name: (o) => (offsetOf(o) === null ? "stop" : TRAILING_OFFSET),
    value: (o) => (o.status === UNTRIGGERED ? (offsetOf(o) ?? o.stop) : null),
  },
]);

/**
 * @param {import("../core/model.js").Model} model
 * @param {import("./account.js").Account} account
 */
export function ordersTable(model, account) {
  const editable = model.canTrade;
  /** @type {Table<Order>} */
  const table = new Table(
    "Open orders, newest first",
    [
      { title: "Order", text: (o) => String(o.number), numeric: true },
      { title: "Market", text: (o) => o.market },
      { title: "Side", text: (o) => o.side, class: (o) => o.side },
      { title: "Type", text: (o) => `${words(o.type)} ${flags(o)}`.trim() },
      ...EDITABLE.map((each) => editor(model, each, editable)),
      { title: "Filled", text: (o) => o.filled, numeric: true },
      {
        title: "State",
        text: (o) => (o.pending === "0" ? statusText(o) : `${o.pending} asked of others`),
      },
      { title: "Since", text: (o) => moment(o.created) },
      {
        title: "",
        make: (cell, row) => {
          if (!editable) return;
          cell.append(
            button("Cancel", () => void cancel(model, row()), {
              "aria-label": `cancel order ${row().number}`,
            }),
          );
        },
      },
    ],
    (o) => o.id,
    "No open orders.",
  );
  const draw = drawer(() => {
    table.update([...account.orders.value.values()].sort((a, b) => b.number - a.number));
  });
  return { element: table.element, stop: account.orders.follow(draw) };
}

/** @param {import("../core/model.js").Model} model @param {Order} order */
async function cancel(model, order) {
  try {
    const parameters = { account: model.account.value };
    const path = `/v1/orders/${encodeURIComponent(order.id)}`;
    toast(outcome(await model.api.send("DELETE", path, parameters)));
  } catch (error) {
    toast(explain(error), "bad");
  }
}

/**
 * A column whose value turns into a field when it is pressed: Enter amends, Escape leaves it.
 * @param {import("../core/model.js").Model} model
 * @param {Editable} each
 * @param {boolean} editable
 * @returns {import("../core/dom.js").Column<Order>}
 */
function editor(model, { title, name, value }, editable) {
  const shown = (/** @type {Order} */ order) => {
    const text = value(order);
    if (text === null) return title === "Price" && order.price === null ? "market" : "–";
    if (name(order) !== TRAILING_OFFSET) return text;
    return `${order.stop ?? "none yet"}, trails by ${text}`;
  };
  return {
    title,
    numeric: true,
    make: (cell, row) => {
      if (!editable) return;
      cell.append(button("", () => edit(model, cell, row, name(row()), value), { class: "edit" }));
    },
    update: (cell, order) => {
      const target = cell.querySelector("button.edit");
      if (target === null) {
        if (!editable) setText(cell, shown(order));
        return;
      }
      setText(target, shown(order));
      /** @type {HTMLButtonElement} */ (target).disabled = value(order) === null;
      target.setAttribute("aria-label", `${title.toLowerCase()} of order ${order.number}: ${shown(order)}; amend`);
    },
  };
}

/**
 * @param {import("../core/model.js").Model} model
 * @param {HTMLTableCellElement} cell
 * @param {() => Order} row
 * @param {string} name
 * @param {(order: Order) => string | null} value
 */
function edit(model, cell, row, name, value) {
  const target = /** @type {HTMLElement} */ (cell.firstElementChild);
  const before = value(row()) ?? "";
  const input = h("input", {
    type: "text",
    inputmode: "decimal",
    class: "amend",
    value: before,
    "aria-label": `new ${name} of order ${row().number}; Enter amends, Escape leaves it`,
  });
  const leave = () => {
    input.remove();
    target.hidden = false;
    if (document.activeElement === document.body) target.focus();
  };
  input.addEventListener("keydown", (event) => {
    if (event.key === "Escape") leave();
    if (event.key === "Enter") void amend(model, row(), name, input.value, before).then(leave);
    if (event.key === "Escape" || event.key === "Enter") event.stopPropagation();
  });
  input.addEventListener("blur", () => setTimeout(leave));
  target.hidden = true;
  cell.append(input);
  input.focus();
  input.select();
}

/**
 * @param {import("../core/model.js").Model} model
 * @param {Order} order @param {string} name @param {string} text @param {string} before
 */
async function amend(model, order, name, text, before) {
  const wanted = Decimal.parse(text);
  if (wanted === null) {
    toast(`${text} is not a number; order ${order.number} stays as it is.`, "bad");
    return;
  }
  if (wanted.toString() === before) return;
  try {
    const path = `/v1/orders/${encodeURIComponent(order.id)}`;
    const parameters = { account: model.account.value };
    const body = { [name]: wanted.toString() };
    toast(outcome(await model.api.send("PATCH", path, parameters, body)), "good");
  } catch (error) {
    toast(explain(error), "bad");
  }
}
