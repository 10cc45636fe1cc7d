/** The help overlay: keys, and how the page works. */

import { button, freshId, h } from "../core/dom.js";

const KEYS = /** @type {[string, string][]} */ ([
  ["1 … 7", "views"],
  ["m", "markets"],
  ["b, s", "ticket: buy, sell"],
  ["l", "ladder: arrows move, Enter fills the ticket"],
  ["o", "own orders: arrows change the tab"],
  ["↑ ↓ in price or quantity", "one step more or less"],
  ["chart: ← →", "candle by candle; Page Up and Down scroll, + and − zoom"],
  ["Enter, Escape in a cell", "amend the order, leave it as it is"],
  ["Escape", "out of a field, close a dialog"],
  ["t", "light, dark, as the system"],
  ["?", "this help"],
]);

export function showHelp() {
  const heading = h("h2", { id: freshId(), text: "Help" });
  const close = button("Close", () => dialog.remove(), { class: "strong" });
  const rows = KEYS.flatMap(([key, text]) => [h("dt", {}, h("kbd", { text: key })), h("dd", { text })]);
  const dialog = h(
    "dialog",
    { class: "help", "aria-labelledby": heading.id },
    heading,
    h("dl", { class: "keys" }, ...rows),
    h("p", {}, "Everything here is also an operation of the API: ", h("a", { href: "/docs" }, "its documents"), "."),
    h("div", { class: "buttons" }, close),
  );
  dialog.addEventListener("cancel", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
  close.focus();
}
