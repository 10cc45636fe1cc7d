/** Building elements without HTML in strings, and tables that change in place. */

/** @typedef {Node | string | number | null | undefined | false} Child */
/** @typedef {Record<string, any>} Props */

/**
 * An element. `class`, `text`, `on` (listeners), `data`; everything else is an attribute: true is an empty
 * one, false and null none.
 * @template {keyof HTMLElementTagNameMap} T
 * @param {T} tag
 * @param {Props} [props]
 * @param {...Child} children
 * @returns {HTMLElementTagNameMap[T]}
 */
export function h(tag, props = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (name === "class") element.className = value;
    else if (name === "text") element.textContent = value;
    else if (name === "data") Object.assign(element.dataset, value);
    else if (name === "on") {
      for (const [type, listener] of Object.entries(value)) element.addEventListener(type, listener);
    } else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) {
      element.setAttribute(name, String(value));
    }
  }
  add(element, children);
  return element;
}

/** @param {Element} element @param {Child[]} children */
function add(element, children) {
  for (const child of children) {
    if (child !== null && child !== undefined && child !== false) {
      element.append(child instanceof Node ? child : String(child));
    }
  }
}

/**
 * Replace the children.
 * @param {Element} element
 * @param {...Child} children
 */
export function fill(element, ...children) {
  element.replaceChildren();
  add(element, children);
}

/**
 * Change a text only when it is another one.
 * @param {Element} element
 * @param {string} text
 */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/**
 * Change a class only when needed.
 * @param {Element} element
 * @param {string} name
 * @param {boolean} on
 */
export function setClass(element, name, on) {
  if (element.classList.contains(name) !== on) element.classList.toggle(name, on);
}

/** Blank of a cell, in digits: CSS has half of it on each side. */
const BLANK = 1.2;

/**
 * Columns of a table as wide as their longest texts; CSS makes the digits as small as all of them need
 * (`--digits`).
 * @param {HTMLTableElement} table with a `col` for each column
 * @param {number[]} lengths of the longest texts, in digits
 */
export function fitColumns(table, lengths) {
  const all = lengths.reduce((sum, length) => sum + length + BLANK, 0);
  const known = table.dataset["lengths"];
  table.dataset["lengths"] = lengths.join(" ");
  if (known === table.dataset["lengths"]) return;
  table.style.setProperty("--digits", String(all));
  table.querySelectorAll("col").forEach((column, at) => {
    column.style.width = `${((lengths[at] + BLANK) / all) * 100}%`;
  });
}

/**
 * The length of the longest text.
 * @param {string[]} texts
 */
export function longest(texts) {
  return Math.max(0, ...texts.map((text) => text.length));
}

let ids = 0;

/** A fresh id, for labels and descriptions. */
export function freshId() {
  return `x${++ids}`;
}

/**
 * A control with its label above.
 * @template {HTMLElement} T
 * @param {string} label
 * @param {T} control
 * @param {string} [hint]
 */
export function field(label, control, hint = "") {
  control.id ||= freshId();
  /** @type {Node[]} */
  const children = [h("label", { for: control.id, text: label }), control];
  if (hint !== "") {
    const note = h("p", { class: "hint", id: `${control.id}h`, text: hint });
    control.setAttribute("aria-describedby", note.id);
    children.push(note);
  }
  return h("div", { class: "field" }, ...children);
}

/**
 * @param {[value: string, label: string][]} choices
 * @param {string} chosen
 * @param {(value: string) => void} [change]
 */
export function select(choices, chosen, change = () => {}) {
  const element = h("select", { on: { change: () => change(element.value) } });
  for (const [value, label] of choices) {
    element.append(h("option", { value, selected: value === chosen }, label));
  }
  return element;
}

/**
 * @param {string} label
 * @param {(event: Event) => void} act
 * @param {Props} [props]
 */
export function button(label, act, props = {}) {
  return h("button", { type: "button", ...props, on: { click: act } }, label);
}

/**
 * @template R
 * @typedef {object} Column
 * @property {string} title
 * @property {(row: R) => string} [text]
 * @property {(row: R) => string} [class]
 * @property {boolean} [numeric]
 * @property {(cell: HTMLTableCellElement, row: () => R) => void} [make] builds the cell once
 * @property {(cell: HTMLTableCellElement, row: R) => void} [update]
 */

/** Rows of a table before "more" is pressed: laying out hundreds many times a second takes its time. */
const SHOWN = 40;

/**
 * A table whose rows are known by a key: rows stay the same elements while their values change, so that
 * focus and typed text survive.
 * @template R
 */
export class Table {
  /** @type {Map<string, {element: HTMLTableRowElement, row: R}>} */
  #rows = new Map();

  /**
   * @param {string} caption
   * @param {Column<R>[]} columns
   * @param {(row: R) => string} key
   * @param {string} empty text shown without rows
   */
  constructor(caption, columns, key, empty) {
    this.columns = columns;
    this.key = key;
    this.body = h("tbody");
    this.table = h(
      "table",
      {},
      h("caption", { class: "unseen", text: caption }),
      h(
        "thead",
        {},
        h(
          "tr",
          {},
          ...columns.map((c) => h("th", { scope: "col", class: c.numeric ? "number" : "" }, c.title)),
        ),
      ),
      this.body,
    );
    this.empty = h("p", { class: "empty", text: empty });
    this.scroller = h(
      "div",
      { class: "scroller", tabindex: "0", role: "group", "aria-label": caption },
      this.table,
    );
    this.limit = SHOWN;
    /** @type {R[]} */
    this.all = [];
    this.more = button("", () => {
      this.limit = Infinity;
      this.update(this.all);
    });
    this.element = h("div", { class: "table" }, this.scroller, this.empty, this.more);
    this.update([]);
  }

  /** @param {R[]} all in the order to be shown; the first ones are, until "more" is pressed */
  update(all) {
    this.all = all;
    const rows = all.slice(0, this.limit);
    this.more.hidden = rows.length === all.length;
    setText(this.more, `Show all ${all.length}`);
    const wanted = new Set(rows.map((row) => this.key(row)));
    for (const [key, known] of this.#rows) {
      if (!wanted.has(key)) {
        known.element.remove();
        this.#rows.delete(key);
      }
    }
    rows.forEach((row, at) => {
      const element = this.#row(row);
      if (this.body.children[at] !== element) {
        this.body.insertBefore(element, this.body.children[at] ?? null);
      }
    });
    this.scroller.hidden = rows.length === 0;
    this.empty.hidden = rows.length > 0;
  }

  /** @param {R} row */
  #row(row) {
    const key = this.key(row);
    let known = this.#rows.get(key);
    if (known === undefined) {
      const element = h("tr", { data: { key } });
      const held = { element, row };
      for (const column of this.columns) {
        const cell = h("td", { class: column.numeric ? "number" : "" });
        column.make?.(cell, () => held.row);
        element.append(cell);
      }
      known = held;
      this.#rows.set(key, known);
    } else if (known.row === row) return known.element; // the same object has the same content
    known.row = row;
    this.columns.forEach((column, at) => {
      const cell = /** @type {HTMLTableCellElement} */ (known.element.children[at]);
      if (column.text) setText(cell, column.text(row));
      if (column.class) cell.className = `${column.numeric ? "number " : ""}${column.class(row)}`;
      column.update?.(cell, row);
    });
    return known.element;
  }
}

/**
 * A short message at the edge of the window that goes by itself, and is read out.
 * @param {string} text
 * @param {"good" | "bad" | ""} [mood]
 */
export function toast(text, mood = "") {
  const host = document.getElementById("toasts");
  if (host === null) return;
  const close = button("×", () => note.remove(), { "aria-label": "dismiss", class: "quiet" });
  const note = h("div", { class: `toast ${mood}` }, h("span", { text }), close);
  host.append(note);
  while (host.children.length > 4) host.firstElementChild?.remove();
  setTimeout(() => note.remove(), mood === "bad" ? 15_000 : 6000);
}

/**
 * Confirm an action.
 * @param {string} title
 * @param {Child[]} body
 * @param {string} yes label of the button that goes on
 * @param {string} [className]
 * @returns {Promise<boolean>}
 */
export function confirm(title, body, yes, className = "") {
  return new Promise((resolve) => {
    const heading = h("h2", { id: freshId(), text: title });
    const dialog = h("dialog", { "aria-labelledby": heading.id, class: className });
    const answer = (/** @type {boolean} */ value) => {
      dialog.remove();
      resolve(value);
    };
    const no = button("Back", () => answer(false));
    const go = button(yes, () => answer(true), { class: "strong" });
    dialog.append(heading, h("div", {}, ...body), h("div", { class: "buttons" }, no, go));
    dialog.addEventListener("cancel", () => answer(false));
    document.body.append(dialog);
    dialog.showModal();
    no.focus();
  });
}
