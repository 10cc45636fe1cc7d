/** The page: head, views by address, banner, keyboard. */

import { explain, Refused } from "./core/api.js";
import { Model, storeCredentials, storedCredentials } from "./core/model.js";
import { fill, h } from "./core/dom.js";
import { PendingOrders } from "./market/pending.js";
import { lookUpPending } from "./market/reload.js";
import { marketView } from "./market/view.js";
import { TickerStrip } from "./market/ticker_strip.js";
import { Account } from "./own/account.js";
import { followTroubles } from "./shell/banner.js";
import { Head, VIEWS } from "./shell/head.js";
import { showHelp } from "./shell/help.js";
import { signIn } from "./shell/sign_in.js";
import { otherView } from "./views/views.js";

/**
 * A view that is shown.
 * @typedef {object} Shown
 * @property {HTMLElement} element
 * @property {() => void} stop
 * @property {(key: string) => boolean} [key]
 */

/** Elements whose keys are not the page's. */
const TYPED_INTO = "input:not([type=radio]):not([type=checkbox]), select, textarea";

class App {
  /** @type {Shown | null} */
  #shown = null;

  constructor() {
    this.model = new Model();
    this.account = new Account(this.model);
    this.strip = new TickerStrip(this.model);
    this.main = /** @type {HTMLElement} */ (document.getElementById("main"));
    this.head = new Head(this.model, this.strip, {
      signIn: () => void this.#signIn(""),
      signOut: () => void this.#signOut(),
      help: showHelp,
    });
    /** @type {HTMLElement} */ (document.getElementById("head")).append(this.head.element);
    followTroubles(this.model, /** @type {HTMLElement} */ (document.getElementById("banner")));
    for (const cell of [this.model.session, this.model.account]) {
      cell.follow(() => {
        this.account.follow();
        this.#show();
      });
    }
    this.model.stream.denied.follow((detail) => {
      if (detail !== null) void this.#signIn(detail);
    });
    addEventListener("hashchange", () => this.#show());
    addEventListener("keydown", (event) => this.#key(event));
  }

  /** Load the session and show the views that its permissions allow. */
  async start() {
    for (let delay = 500; ; delay = Math.min(delay * 2, 5000)) {
      try {
        await this.model.begin();
        this.model.trouble("answers", null);
        break;
      } catch (error) {
        if (error instanceof Refused && error.status < 500) {
          if (error.status === 401 || error.status === 403) {
            await this.#signIn(error.message);
            return;
          }
          this.model.trouble("answers", `The node refuses this page: ${explain(error)}`);
          return;
        }
        this.model.trouble("answers", `The node does not answer: ${explain(error)}`);
        await new Promise((resolve) => setTimeout(resolve, delay));
      }
    }
    await this.#actFor();
    this.model.stream.open();
    lookUpPending(this.model);
    const session = this.model.session.value;
    if (session !== null && session.account === null && storedCredentials() === null) {
      await this.#signIn("");
    }
  }

  /** Act for the account that the page's address names, where the operator may: `#/market/BTC-USD/you`. */
  async #actFor() {
    const wanted = decodeURIComponent(location.hash.split("/")[3] ?? "");
    if (wanted === "" || !this.model.isOperator) return;
    /** @type {{name: string}[]} */
    const accounts = await this.model.api.get("/v1/accounts").catch(() => []);
    if (accounts.some(({ name }) => name === wanted)) this.model.account.value = wanted;
  }

  /** @param {string} problem */
  async #signIn(problem) {
    const found = await signIn(problem);
    if (found === null) {
      if (problem === "") return;
      storeCredentials(null);
    } else storeCredentials(found);
    await this.#again();
  }

  async #signOut() {
    storeCredentials(null);
    new PendingOrders().clear();
    await this.#again();
  }

  async #again() {
    this.model.stream.close();
    try {
      await this.model.begin();
      this.model.stream.reopen();
    } catch (error) {
      await this.#signIn(explain(error));
    }
  }

  #show() {
    if (this.model.session.value === null) return;
    this.#shown?.stop();
    const [, name = "", detail = ""] = location.hash.split("/");
    const first = this.model.markets.value[0]?.symbol ?? "";
    // A view that this key may not have is not there.
    const view = this.head.views.some((each) => each.name === name) ? name : "market";
    const symbol = decodeURIComponent(detail || this.strip.current || first);
    if (view === "market") {
      this.strip.mark(symbol);
      document.title = `${symbol} – exchange-node`;
      this.#shown = marketView(this.model, this.account, symbol);
    } else {
      document.title = `${VIEWS.find((each) => each.name === view)?.title} – exchange-node`;
      this.#shown = otherView(view, this.model);
    }
    this.head.mark(view);
    fill(this.main, this.#shown.element);
    this.main.dataset["view"] = view;
  }

  /** @param {KeyboardEvent} event */
  #key(event) {
    const { target } = event;
    if (target instanceof HTMLElement && target.matches(TYPED_INTO)) {
      if (event.key === "Escape") target.blur();
      return;
    }
    const chord = event.ctrlKey || event.metaKey || event.altKey;
    if (!chord && document.querySelector("dialog[open]") === null && this.#act(event.key)) {
      event.preventDefault();
    }
  }

  /** @param {string} key @returns {boolean} whether it meant something */
  #act(key) {
    const view = this.head.views[Number(key) - 1];
    if (view !== undefined) location.hash = `#/${view.name}`;
    else if (key === "?") showHelp();
    else if (key === "m") this.strip.element.querySelector("a")?.focus();
    else if (key === "t") this.head.nextTheme();
    else return this.#shown?.key?.(key) ?? false;
    return true;
  }
}

const app = new App();
app.start().catch((error) => {
  fill(app.main, h("p", { class: "problem", text: explain(error) }));
  throw error;
});
