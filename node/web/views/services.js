/** The services view: services in the network, and the choice of nodes with its reasons. */

import { Table, h, select, setText } from "../core/dom.js";
import { clock, millis, shortId, words } from "../core/format.js";
import { Scope, drawer } from "../core/state.js";
import { badge, panel } from "./sheet.js";

/**
 * @typedef {object} Service
 * @property {string} name
 * @property {string[]} nodes
 * @property {{workers: number, serving: number, waiting: number, served: number, busy: number, expired: number, service_ms: number, faults: string} | null} serving
 * @property {{attempts: number, hedges: number, outcomes: Record<string, number>, mean_ms: number | null, p50_ms: number | null, p95_ms: number | null, p99_ms: number | null} | null} calls
 *
 * @typedef {object} Route
 * @property {string} service
 * @property {string} node
 * @property {number} cost
 * @property {"CLOSED" | "OPEN" | "HALF_OPEN"} state
 * @property {string} why
 * @property {Record<string, number>} parts
 * @property {number} hint_factor
 * @property {number} slow_start
 * @property {number} total_calls
 * @property {number} error_count
 * @property {number} timeout_count
 * @property {number} in_flight
 * @property {number | null} avg_latency_ms
 * @property {number | null} window
 * @property {number | null} rate
 *
 * @typedef {{node: string, origin: string, signal: string, weight: number}} Hint
 * @typedef {{time: string, kind: string, service: string, node: string, reason: string, detail: Record<string, unknown>}} Decision
 */

const KEPT = 300; // decisions
const KINDS = /** @type {[string, string][]} */ ([
  ["", "All decisions"],
  ["pick", "Picks"],
  ["breaker", "Breakers"],
  ["hint", "Hints"],
  ["panic", "Panic"],
  ["rate", "Rates"],
]);

/** @param {import("../core/model.js").Model} model */
export function servicesView(model) {
  const scope = new Scope();
  const problem = h("p", { class: "problem", role: "status" });
  const services = servicesTable();
  const routes = routesTable();
  const hints = hintsTable();
  const events = eventsTable();
  const policy = h("p", { class: "hint body" });
  let kind = "";
  let count = 0;
  /** @type {(Decision & {at: number})[]} newest first */
  let latest = [];
  const draw = drawer(() => events.update(latest.filter((event) => kind === "" || event.kind === kind)));
  const follow = (/** @type {string} */ channel, /** @type {(message: any) => void} */ take) => {
    scope.add(model.stream.subscribe({ channel, conflate_ms: 250 }, take, (detail) => (problem.textContent = detail)));
  };
  follow("services", (message) => services.update(message.services));
  follow("router", ({ router }) => {
    routes.update(router.routes);
    hints.update(router.hints);
    setText(policy, `Policy: ${router.policy}. The node with the lowest cost is asked next; an open breaker keeps a node out. The window is how many calls may be under way to a node, the rate how many a second its pace allows.`);
  });
  follow("decisions", (message) => {
    const added = /** @type {Decision[]} */ (message.decisions).map((event) => ({ ...event, at: count++ }));
    latest = [...added.reverse(), ...(message.previous === null ? [] : latest)].slice(0, KEPT);
    draw();
  });
  const choice = select(KINDS, "", (value) => {
    kind = value;
    draw();
  });
  choice.setAttribute("aria-label", "which decisions");
  const decisions = panel("Decisions", "wide", events.element);
  decisions.querySelector("header")?.append(choice);
  const element = h(
    "div",
    { class: "sheet" },
    h("h1", { class: "unseen", text: "Services and router" }),
    panel("Services", "", problem, services.element),
    panel("How nodes are chosen", "", policy, routes.element),
    decisions,
    panel("Hints of other nodes", "third", hints.element),
  );
  return { element, stop: () => scope.end() };
}

/** @returns {Table<Service>} */
function servicesTable() {
  const outcomes = (/** @type {Service} */ s) =>
    s.calls === null ? "–" : Object.entries(s.calls.outcomes).map(([name, count]) => `${words(name)} ${count}`).join(", ") || "–";
  const percentiles = (/** @type {Service} */ s) =>
    s.calls === null ? "–" : [s.calls.p50_ms, s.calls.p95_ms, s.calls.p99_ms].map(millis).join(", ");
  return new Table(
    "Services",
    [
      { title: "Service", text: (s) => s.name },
      { title: "Offered by", text: (s) => s.nodes.map(shortId).join(", ") },
      { title: "Served here", text: (s) => (s.serving === null ? "–" : String(s.serving.served)), numeric: true },
      { title: "In work, waiting", text: (s) => (s.serving === null ? "–" : `${s.serving.serving} of ${s.serving.workers}, ${s.serving.waiting}`), numeric: true },
      { title: "Refused, expired", text: (s) => (s.serving === null ? "–" : `${s.serving.busy}, ${s.serving.expired}`), numeric: true },
      { title: "Service time", text: (s) => (s.serving === null || s.serving.served === 0 ? "–" : millis(s.serving.service_ms)), numeric: true },
      { title: "Own calls", text: outcomes },
      { title: "Mean latency", text: (s) => millis(s.calls?.mean_ms ?? null), numeric: true },
      { title: "50, 95, 99 % at most", text: percentiles, numeric: true },
      { title: "Hedges", text: (s) => String(s.calls?.hedges ?? "–"), numeric: true },
    ],
    (s) => s.name,
    "No services.",
  );
}

const STATES = /** @type {Record<string, ["good" | "bad" | "mid", string]>} */ ({
  CLOSED: ["good", "closed"],
  OPEN: ["bad", "open"],
  HALF_OPEN: ["mid", "half open"],
});

/** @returns {Table<Route>} */
function routesTable() {
  const parts = (/** @type {Route} */ r) =>
    Object.entries(r.parts).filter(([, value]) => value !== 0).map(([name, value]) => `${words(name)} ${value.toPrecision(3)}`).join(", ");
  return new Table(
    "Nodes by service, the next to be asked first",
    [
      { title: "Service", text: (r) => r.service },
      { title: "Node", text: (r) => shortId(r.node) },
      { title: "Cost", text: (r) => r.cost.toPrecision(3), numeric: true },
      {
        title: "Breaker",
        make: () => {},
        update: (cell, r) => {
          const [mood, text] = STATES[r.state];
          if (cell.textContent !== text) cell.replaceChildren(badge(text, mood));
        },
      },
      { title: "Calls", text: (r) => String(r.total_calls), numeric: true },
      { title: "Errors", text: (r) => String(r.error_count + r.timeout_count), numeric: true },
      { title: "In flight", text: (r) => String(r.in_flight), numeric: true },
      { title: "Window", text: (r) => (r.window === null ? "–" : String(r.window)), numeric: true },
      { title: "Rate", text: (r) => (r.rate === null ? "–" : `${Math.round(r.rate)} /s`), numeric: true },
      { title: "Latency", text: (r) => millis(r.avg_latency_ms), numeric: true },
      { title: "Slow start", text: (r) => (r.slow_start < 1 ? `${Math.round(r.slow_start * 100)} %` : "–"), numeric: true },
      { title: "Why", text: (r) => r.why, class: () => "wrap" },
      { title: "Cost made of", text: parts, class: () => "wrap" },
    ],
    (r) => `${r.service} ${r.node}`,
    "This node has called no service yet: exchange-node call SERVICE JSON does.",
  );
}

/** @returns {Table<Hint>} */
function hintsTable() {
  return new Table(
    "Hints",
    [
      { title: "About", text: (h) => shortId(h.node) },
      { title: "From", text: (h) => shortId(h.origin) },
      { title: "Says", text: (h) => h.signal.toLowerCase(), class: (h) => (h.signal === "HEALTHY" ? "up" : "down") },
      { title: "Weight", text: (h) => h.weight.toFixed(2), numeric: true },
    ],
    (h) => `${h.node} ${h.origin}`,
    "None heard.",
  );
}

/** @returns {Table<Decision & {at: number}>} */
function eventsTable() {
  return new Table(
    "Decisions, newest first",
    [
      { title: "Time", text: (e) => clock(e.time) },
      { title: "Kind", text: (e) => e.kind },
      { title: "Service", text: (e) => e.service },
      { title: "Node", text: (e) => shortId(e.node) },
      { title: "Reason", text: (e) => e.reason },
    ],
    (e) => `${e.time} ${e.kind} ${e.service} ${e.node} ${e.at}`,
    "No decisions yet.",
  );
}
