/** The network view: peers, the map of links, discovery, feeds. */

import { explain } from "../core/api.js";
import { Table, button, confirm, field, h, toast } from "../core/dom.js";
import { ago, bytes, millis, shortId } from "../core/format.js";
import { Scope } from "../core/state.js";
import { NetworkMap } from "./network_map.js";
import { Facts, badge, guarded, panel } from "./sheet.js";

/**
 * @typedef {object} Peer
 * @property {string | null} node_id
 * @property {string} address
 * @property {number} port
 * @property {string} status
 * @property {string | null} direction
 * @property {string} source
 * @property {boolean | null} encrypted
 * @property {string | null} carrier
 * @property {string | null} version
 * @property {string[]} capabilities
 * @property {string | null} last_seen
 * @property {number | null} rtt_ms
 * @property {number} failures
 * @property {string | null} last_error
 * @property {number} bytes_received
 * @property {number} bytes_sent
 * @property {string | null} [privilege] "pinned" and others; not there on nodes without a policy
 * @property {string | null} [banned_until]
 *
 * @typedef {{name: string, state: string, detail: string, found: number}} Discovery
 */

const LOOK = 2000; // ms
const LOOK_AT_MAP = 5000;

/** @param {import("../core/model.js").Model} model */
export function networkView(model) {
  const scope = new Scope();
  const facts = new Facts();
  const problem = guarded();
  const peers = peersTable(model);
  const discovery = discoveryTable();
  const map = new NetworkMap();
  scope.every(LOOK, () =>
    problem.run(async () => {
      const [status, found] = await Promise.all([model.api.get("/v1/status"), model.api.get("/v1/peers")]);
      if (scope.ended) return;
      peers.update(found);
      discovery.update(status.discovery);
      facts.show([
        ["Node", status.node_id],
        ["Network", `${status.network}, ${status.security === "tls" ? "encrypted" : "not encrypted"}`],
        ["Address for peers", status.p2p_address ?? "none"],
        ["Linked peers", `${status.peers_connected} of ${status.peers_known} known`],
        ["Nodes present", String(status.nodes_present)],
        ["Feeds", status.feeds_behind ? `${status.feeds}, ${status.feeds_behind} behind` : `${status.feeds}, all up to date`],
      ]);
    }),
  );
  scope.every(LOOK_AT_MAP, () =>
    problem.run(async () => {
      const found = await model.api.get("/v1/topology");
      if (!scope.ended) map.show(found);
    }),
  );
  const element = h(
    "div",
    { class: "sheet" },
    h("h1", { class: "unseen", text: "Network" }),
    panel("This node", "", facts.element, problem.element, model.isOperator ? connectForm(model) : null),
    panel("Map", "half map", map.element),
    panel("Discovery", "half", discovery.element),
    panel("Peers", "", peers.element),
  );
  return { element, stop: () => scope.end() };
}

/** @param {import("../core/model.js").Model} model */
function connectForm(model) {
  const address = h("input", { type: "text", placeholder: "192.0.2.10:3000", autocomplete: "off" });
  const go = h("button", { type: "submit" }, "Connect");
  const form = h("form", { class: "inline", novalidate: true }, field("Address", address), go);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    go.disabled = true;
    try {
      const peer = await model.api.post("/v1/peers", { address: address.value.trim() });
      toast(`Connected to ${shortId(peer.node_id)}.`, "good");
      address.value = "";
    } catch (error) {
      toast(explain(error), "bad");
    } finally {
      go.disabled = false;
    }
  });
  return form;
}

/** How a peer is reached, in a word. @param {Peer} peer */
function reached(peer) {
  if (peer.status !== "connected") return peer.last_error ?? "not linked";
  const way = peer.carrier === "grenache" ? "over Grenache" : peer.direction === "in" ? "it dialled" : "dialled";
  return peer.encrypted ? way : `${way}, not encrypted`;
}

/** @param {import("../core/model.js").Model} model @returns {Table<Peer>} */
function peersTable(model) {
  return new Table(
    "Peers",
    [
      { title: "Node", text: (p) => (p.node_id === null ? "unknown" : shortId(p.node_id)) },
      {
        title: "State",
        make: () => {},
        update: (cell, p) => {
          if (cell.textContent === p.status) return;
          const mood = p.status === "connected" ? "good" : p.status === "connecting" ? "mid" : "bad";
          cell.replaceChildren(badge(p.status, mood));
        },
      },
      { title: "Address", text: (p) => `${p.address}:${p.port}` },
      { title: "Reached", text: reached },
      { title: "Found by", text: (p) => p.source },
      { title: "Round trip", text: (p) => millis(p.rtt_ms), numeric: true },
      { title: "Received", text: (p) => bytes(p.bytes_received), numeric: true },
      { title: "Sent", text: (p) => bytes(p.bytes_sent), numeric: true },
      { title: "Version", text: (p) => p.version ?? "–" },
      { title: "Last heard", text: (p) => ago(p.last_seen) },
      {
        title: "",
        make: (cell, row) => {
          if (!model.isOperator || row().node_id === null) return;
          const name = shortId(row().node_id ?? "");
          cell.append(button("Ping", () => void ping(model, row()), { "aria-label": `ping ${name}` }));
          if (row().banned_until === undefined) return; // this node has no policy of peers
          cell.append(
            " ",
            button("", () => void change(model, row(), row().privilege === "pinned" ? "unpin" : "pin"), { class: "pin" }),
            " ",
            button("", () => void change(model, row(), row().banned_until === null ? "ban" : "unban"), { class: "ban" }),
          );
        },
        update: (cell, p) => {
          name(cell.querySelector(".pin"), p.privilege === "pinned" ? "Unpin" : "Pin", p);
          name(cell.querySelector(".ban"), p.banned_until === null ? "Ban" : "Unban", p);
        },
      },
    ],
    (p) => p.node_id ?? `${p.address}:${p.port}`,
    "No peers yet. Type the address of another node above, or wait until one is found.",
  );
}

/** @param {Element | null} target @param {string} word @param {Peer} peer */
function name(target, word, peer) {
  if (target === null || target.textContent === word) return;
  target.textContent = word;
  target.setAttribute("aria-label", `${word.toLowerCase()} ${shortId(peer.node_id ?? "")}`);
}

/**
 * @param {import("../core/model.js").Model} model @param {Peer} peer
 * @param {"pin" | "unpin" | "ban" | "unban"} action
 */
async function change(model, peer, action) {
  const who = shortId(peer.node_id ?? "");
  const text = `${who} is cut off for a day, and told so.`;
  if (action === "ban" && !(await confirm(`Ban ${who}?`, [h("p", {}, text)], "Ban it"))) return;
  try {
    await model.api.post("/v1/peers/policy", { action, subject: peer.node_id });
    toast(`${who}: ${action} done.`, "good");
  } catch (error) {
    toast(explain(error), "bad");
  }
}

/** @param {import("../core/model.js").Model} model @param {Peer} peer */
async function ping(model, peer) {
  try {
    const pong = await model.api.send("POST", `/v1/peers/${peer.node_id}/ping`);
    toast(`${shortId(pong.node_id)} answered in ${millis(pong.rtt_ms)}, ${pong.way}.`, "good");
  } catch (error) {
    toast(explain(error), "bad");
  }
}

/** @returns {Table<Discovery>} */
function discoveryTable() {
  return new Table(
    "Discovery strategies",
    [
      { title: "Strategy", text: (d) => d.name },
      { title: "State", text: (d) => d.state },
      { title: "Found", text: (d) => String(d.found), numeric: true },
      { title: "", text: (d) => d.detail },
    ],
    (d) => d.name,
    "No strategies.",
  );
}

