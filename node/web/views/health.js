/** The health view: state of the node, with a remedy for each fault. */

import { fill, h } from "../core/dom.js";
import { bytes, duration, millis } from "../core/format.js";
import { Plot } from "../market/canvas.js";
import { Scope } from "../core/state.js";
import { Facts, badge, panel } from "./sheet.js";

const KEPT = 300; // points of the plots: five minutes

/** A line of the newest values. */
class Trace {
  /** @param {string} label @param {(value: number) => string} text */
  constructor(label, text) {
    /** @type {number[]} */
    this.values = [];
    this.text = text;
    this.plot = new Plot(label, (context, width, height, colours) => {
      const most = Math.max(...this.values, 1e-9) * 1.15;
      const step = width / (KEPT - 1);
      context.beginPath();
      this.values.forEach((value, at) => {
        const x = width - (this.values.length - 1 - at) * step;
        context.lineTo(x, height - 4 - (value / most) * (height - 22));
      });
      context.strokeStyle = colours.accent;
      context.lineWidth = 1.5;
      context.stroke();
      context.fillStyle = colours.text;
      context.fillText(`most ${this.text(most / 1.15)}`, 6, 12);
    });
  }

  /** @param {number} value */
  add(value) {
    this.values.push(value);
    if (this.values.length > KEPT) this.values.shift();
    this.plot.draw();
  }
}

/** @param {import("../core/model.js").Model} model */
export function healthView(model) {
  const scope = new Scope();
  const problem = h("p", { class: "problem", role: "status" });
  const [node, figures, page] = [new Facts(), new Facts(), new Facts()];
  const warnings = h("div", { class: "body", role: "status" });
  const rate = new Trace("orders a second within the last five minutes", (value) => value.toFixed(1));
  const lag = new Trace("lag of the event loop within the last five minutes", millis);
  for (const trace of [rate, lag]) scope.add(() => trace.plot.stop());
  let before = /** @type {{orders: number, uptime_s: number} | null} */ (null);
  /** @type {{status: string[], diagnostics: string[]}} */
  const said = { status: [], diagnostics: [] };
  const follow = (/** @type {string} */ channel, /** @type {(message: any) => void} */ take) => {
    scope.add(model.stream.subscribe({ channel }, take, (detail) => (problem.textContent = detail)));
  };
  follow("status", ({ status }) => {
    said.status = status.warnings;
    showWarnings(warnings, [...said.status, ...said.diagnostics]);
    node.show([
      ["Version", status.version],
      ["Up for", duration(status.uptime_s)],
      ["Mode", status.mode],
      ["Open orders", String(status.open_orders)],
      ["Takes pending", String(status.pending_takes)],
      ["Feeds behind", String(status.feeds_behind)],
      ["Data directory", status.data_dir],
      ...status.exports.map(exportOf),
      ...(status.standby === null ? [] : [standbyOf(status.standby)]),
    ]);
  });
  follow("diagnostics", ({ diagnostics: now }) => {
    const seconds = before === null ? 0 : now.uptime_s - before.uptime_s;
    const speed = before === null || seconds <= 0 ? 0 : Math.max(0, (now.orders - before.orders) / seconds);
    before = now;
    rate.add(speed);
    lag.add(now.loop_lag_p95_ms);
    said.diagnostics = now.warnings;
    showWarnings(warnings, [...said.status, ...said.diagnostics]);
    figures.show(figuresOf(now, speed));
  });
  scope.every(1000, () => {
    const offset = model.api.clockOffset;
    page.show([
      ["Stream", model.stream.connection.value],
      ["Messages", String(model.stream.messages)],
      ["Faults mended", String(model.stream.faults.value)],
      ["Clock difference", offset === null ? "–" : `${Math.round(Math.abs(offset) / 1000)} s`],
    ]);
  });
  const element = h(
    "div",
    { class: "sheet" },
    h("h1", { class: "unseen", text: "Health" }),
    panel("Warnings", "", warnings, problem),
    panel("Node", "half", node.element),
    panel("This page", "half", page.element),
    panel("Figures", "", figures.element),
    panel("Orders a second", "half", rate.plot.box),
    panel("Loop lag", "half", lag.plot.box),
  );
  return { element, stop: () => scope.end() };
}

/** @param {any} now diagnostics @param {number} speed orders a second @returns {[string, string][]} */
function figuresOf(now, speed) {
  return [
    ["Orders a second", speed.toFixed(1)],
    ["Orders, fills", `${now.orders}, ${now.fills}`],
    ["Commit, median", atMost(now.commit_p50_ms)],
    ["Commit, 95 %", atMost(now.commit_p95_ms)],
    ["Commit, 99 %", atMost(now.commit_p99_ms)],
    ["Loop lag, 95 %", millis(now.loop_lag_p95_ms)],
    ["Loop lag, most", millis(now.loop_lag_max_ms)],
    ["Memory", bytes(now.memory_bytes)],
    ["Data", bytes(now.data_bytes)],
    ["Free on disk", bytes(now.disk_free_bytes)],
    ["Journal behind", now.journal_lag_ms === 0 ? "no" : millis(now.journal_lag_ms)],
    ["Archive behind", `${now.archive_behind} records`],
  ];
}

/**
 * @param {{sink: string, state: string, behind: number}} view
 * @returns {[string, string]}
 */
function exportOf(view) {
  const behind = view.behind ? `${view.behind} commits behind` : "has every commit";
  return [`Export to ${view.sink}`, `${view.state}, ${behind}`];
}

/**
 * @param {{standby: string, connected: boolean, in_sync: boolean | null, lag: number | null, epoch: number}} view
 * @returns {[string, string]}
 */
function standbyOf(view) {
  if (view.standby === "") return ["Standby", `none, epoch ${view.epoch}`];
  const parts = [view.connected ? "connected" : "not connected"];
  if (view.in_sync !== null) parts.push(view.in_sync ? "in sync" : "not in sync");
  if (view.lag) parts.push(`${view.lag} commits behind`);
  return ["Standby", `${parts.join(", ")}, epoch ${view.epoch}`];
}

/** @param {number | null} ms upper bound of a bin */
function atMost(ms) {
  return ms === null ? "–" : `≤ ${millis(ms)}`;
}

/** @param {HTMLElement} host @param {string[]} texts */
function showWarnings(host, texts) {
  const said = texts.join("\n");
  if (host.dataset["said"] === said) return;
  host.dataset["said"] = said;
  if (texts.length === 0) fill(host, badge("all is well", "good"));
  else fill(host, ...texts.map((text) => h("p", { class: "warning", text })));
}
