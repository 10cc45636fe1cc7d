/** The head of the page: views, markets, account, theme, help. */

import { button, fill, h, select } from "../core/dom.js";
import { shortId } from "../core/format.js";
import { storedCredentials } from "../core/model.js";

/** @typedef {{name: string, title: string, may: (model: import("../core/model.js").Model) => boolean}} View */

/** @type {View[]} in the order of their number keys */
export const VIEWS = [
  { name: "market", title: "Market", may: () => true },
  { name: "network", title: "Network", may: (model) => mayWatch(model) },
  { name: "services", title: "Services", may: (model) => mayWatch(model) },
  { name: "between", title: "Between nodes", may: (model) => model.isOperator },
  { name: "health", title: "Health", may: (model) => mayWatch(model) },
  { name: "accounts", title: "Accounts", may: (model) => model.isOperator },
  { name: "desk", title: "Desk", may: (model) => model.isOperator },
];

/**
 * The operator, or a key of the house that may read.
 * @param {import("../core/model.js").Model} model
 */
function mayWatch(model) {
  return model.isOperator || (model.session.value?.account === 0 && model.canRead);
}

const THEMES = ["auto", "light", "dark"];

export class Head {
  /**
   * @param {import("../core/model.js").Model} model
   * @param {import("../market/ticker_strip.js").TickerStrip} strip
   * @param {{signIn: () => void, signOut: () => void, help: () => void}} acts
   */
  constructor(model, strip, acts) {
    this.model = model;
    this.acts = acts;
    /** @type {View[]} */
    this.views = [];
    this.current = "market";
    this.theme = 0;
    this.nav = h("nav", { class: "views", "aria-label": "views" });
    this.who = h("div", { class: "who" });
    this.accounts = h("select"); // for the operator: the account in view
    this.themeButton = button("◐", () => this.nextTheme(), { class: "quiet" });
    this.brand = h("a", { class: "brand", href: "#/market" });
    this.element = h(
      "div",
      { class: "head" },
      h(
        "div",
        { class: "bar" },
        this.brand,
        this.nav,
        this.who,
        this.themeButton,
        button("?", acts.help, { class: "quiet", "aria-label": "help and keyboard" }),
      ),
      strip.element,
    );
    model.session.follow(() => this.#build());
    model.account.follow(() => this.#choose());
    this.#nameTheme();
  }

  #build() {
    const { model } = this;
    const session = model.session.value;
    this.views = VIEWS.filter((view) => view.may(model));
    fill(
      this.nav,
      ...this.views.map((view) => h("a", { href: `#/${view.name}`, data: { view: view.name } }, view.title)),
    );
    this.mark(this.current);
    if (session === null) return;
    fill(this.brand, h("span", { class: "unseen", text: "exchange-node " }), "◆ ", shortId(session.node_id));
    this.brand.title = `node ${session.node_id}, version ${session.version}`;
    const children = [];
    if (session.operator) children.push(this.#accounts());
    else if (session.account_name !== null) children.push(h("span", { class: "name", text: session.account_name }));
    if (session.operator && session.key === null && storedCredentials() === null) {
      // The operator by being on this machine: there is nothing to sign out of.
      children.push(button("Use a key", this.acts.signIn, { class: "quiet" }));
    } else if (session.account === null) children.push(button("Sign in", this.acts.signIn));
    else children.push(button("Sign out", this.acts.signOut));
    fill(this.who, ...children);
  }

  /** The operator chooses the account in view. */
  #accounts() {
    const choice = select([["", "the house"]], "", (value) => {
      this.model.account.value = value === "" ? null : value;
    });
    choice.setAttribute("aria-label", "act for account");
    choice.addEventListener("focus", () => void this.#fillAccounts(choice));
    this.accounts = choice;
    void this.#fillAccounts(choice);
    return choice;
  }

  /** @param {HTMLSelectElement} choice */
  async #fillAccounts(choice) {
    /** @type {{number: number, name: string}[]} */
    const accounts = await this.model.api.get("/v1/accounts").catch(() => []);
    const known = new Set([...choice.options].map((option) => option.value));
    for (const { number, name } of accounts) {
      if (number !== 0 && !known.has(name)) choice.append(h("option", { value: name }, name));
    }
    this.#choose();
  }

  /** Show the account that the operator acts for. */
  #choose() {
    this.accounts.value = this.model.account.value ?? "";
  }

  /** @param {string} name the view that is shown */
  mark(name) {
    this.current = name;
    for (const link of this.nav.querySelectorAll("a")) {
      if (link.dataset["view"] === name) {
        link.setAttribute("aria-current", "page");
        // Into view in a narrow window, without moving the page.
        this.nav.scrollLeft = link.offsetLeft - this.nav.offsetLeft - 40;
      } else link.removeAttribute("aria-current");
    }
  }

  nextTheme() {
    this.theme = (this.theme + 1) % THEMES.length;
    const name = THEMES[this.theme];
    if (name === "auto") delete document.documentElement.dataset["theme"];
    else document.documentElement.dataset["theme"] = name;
    this.#nameTheme();
    document.dispatchEvent(new Event("themechange"));
  }

  #nameTheme() {
    this.themeButton.setAttribute("aria-label", `colours: ${THEMES[this.theme]}; change`);
    this.themeButton.title = `Colours: ${THEMES[this.theme]}`;
  }
}
