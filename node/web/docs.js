/** The API's documents: a search over operations, shapes and problems, and buttons that copy examples. */

import { button, h, setText } from "./core/dom.js";

const host = /** @type {HTMLElement} */ (document.getElementById("search"));
const parts = /** @type {HTMLElement[]} */ ([...document.querySelectorAll("section")]);
const texts = parts.map((part) => (part.textContent ?? "").toLowerCase());

const found = h("output");
const input = h("input", {
  type: "search",
  placeholder: "Search operations, fields and problems ( / )",
  "aria-label": "search",
  on: { input: () => show() },
});
host.append(input, found);

/** Show the parts that have every word. */
function show() {
  const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
  let count = 0;
  parts.forEach((part, at) => {
    part.hidden = !words.every((word) => texts[at].includes(word));
    if (!part.hidden) count++;
  });
  setText(found, words.length === 0 ? "" : `${count} of ${parts.length}`);
}

for (const example of document.querySelectorAll(".example")) {
  const line = example.querySelector("pre")?.textContent ?? "";
  const name = example.querySelector("b")?.textContent ?? "";
  const copy = button("Copy", () => void copied(line, copy), { "aria-label": `copy the line for ${name}` });
  example.append(copy);
}

/** @param {string} line @param {HTMLButtonElement} copy */
async function copied(line, copy) {
  try {
    await navigator.clipboard.writeText(line);
    setText(copy, "Copied");
  } catch {
    setText(copy, "Not allowed");
  }
  setTimeout(() => setText(copy, "Copy"), 1500);
}

addEventListener("keydown", (event) => {
  if (event.key !== "/" || event.target === input) return;
  event.preventDefault();
  input.focus();
});
