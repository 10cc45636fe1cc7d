/** Signing in with an API key or the operator's token. It is kept in this tab alone. */

import { button, field, freshId, h, setText } from "../core/dom.js";

/**
 * Prompt for a key.
 * @param {string} problem why the last one was refused
 * @returns {Promise<string | null>} KEY:SECRET; null to look at public data only
 */
export function signIn(problem) {
  if (document.querySelector("dialog.sign-in") !== null) return new Promise(() => {});
  return new Promise((resolve) => {
    const input = h("input", {
      type: "password",
      autocomplete: "off",
      spellcheck: "false",
      placeholder: "KEY:SECRET",
    });
    const wrong = h("p", { class: "problem", role: "alert", text: problem });
    const heading = h("h2", { id: freshId(), text: "Sign in" });
    const done = (/** @type {string | null} */ value) => {
      dialog.remove();
      resolve(value);
    };
    const form = h(
      "form",
      { novalidate: true },
      heading,
      h("p", {}, "With an API key as ", h("code", { text: "KEY:SECRET" }), ", or as the operator with ", h("code", { text: "operator:TOKEN" }), " from ", h("code", { text: "node.json" }), " in the node's data directory."),
      field("Key and secret", input, "Kept in this tab until it is closed; nowhere else."),
      wrong,
      h(
        "div",
        { class: "buttons" },
        button("Look at the market only", () => done(null)),
        h("button", { type: "submit", class: "strong" }, "Sign in"),
      ),
    );
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      const text = input.value.trim();
      if (/^[^\s:]+:\S+$/.test(text)) done(text);
      else setText(wrong, "Type the key, a colon and the secret, as 'account keys create' printed them.");
    });
    const dialog = h("dialog", { class: "sign-in", "aria-labelledby": heading.id }, form);
    dialog.addEventListener("cancel", () => done(null));
    document.body.append(dialog);
    dialog.showModal();
    input.focus();
  });
}
