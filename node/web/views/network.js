/** The network view: peers, the map of links, discovery, feeds. */

import { explain } from "../core/api.js";
import { Table, button, confirm, field, h, toast } from "../core/dom.js";
import { ago, bytes, millis, moment, shortId } from "../core/format.js";
import { Scope } from "../core/state.js";
import { feedsTable } from "./feeds.js";
import { NetworkMap } from "./network_map.js";
import { Facts, badge, panel } from "./sheet.js";

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
 * @property {string | null} connected_at
 * @property {string | null} last_seen
 * @property {number | null} rtt_ms
 * @property {number} failures
 * @property {string | null} last_error
 * @property {number} bytes_received
 * @property {number} bytes_sent
 * @property {string | null} [privilege] "pinned" and others; not there on nodes without a policy
 * @property {string | null} [banned_until]
 * @property {string | null} [path]
 * @property {string | null} [via] node id of the relaying neighbour
 * @property {string | null} [reputation]
 * @property {string[]} [reputation_reasons] the weightiest first
 *
 * @typedef {{name: string, state: string, detail: string, found: number}} Discovery
 */

const CLOCK = 1000; // ms between two looks at times that go on by themselves

/** @param {import("../core/model.js").Model} model */
export function networkView(model) {
  const scope = new Scope();
  const facts = new Facts();
  const problem = h("p", { class: "problem", role: "status" });
  /** @type {Map<string, string[]>} services by node */
  let offers = new Map();
  const peers = peersTable(model, (peer) => (offers.get(peer.node_id ?? "") ?? []).join(", ") || "–");
  const [discovery, feeds, map] = [discoveryTable(), feedsTable(), new NetworkMap()];
  const follow = (/** @type {string} */ channel, /** @type {(message: any) => void} */ take) => {
    scope.add(model.stream.subscribe({ channel, conflate_ms: 250 }, take, (detail) => (problem.textContent = detail)));
  };
  follow("status", ({ status }) => {
    discovery.update(status.discovery);
    facts.show(describe(status));
  });
  /** @type {Peer[]} */
  let latest = [];
  const draw = () => peers.update(latest.map((peer) => ({ ...peer })));
  follow("peers", (message) => {
    latest = message.peers;
    draw();
  });
  follow("services", (message) => {
    offers = offersOf(message.services);
    draw();
  });
  scope.every(CLOCK, draw); // relative times
  follow("topology", ({ topology }) => map.show(topology));
  follow("feeds", (message) => feeds.update(message.feeds));
  const element = h(
    "div",
    { class: "sheet" },
    h("h1", { class: "unseen", text: "Network" }),
    panel("This node", "", facts.element, problem, model.isOperator ? connectForm(model) : null),
    panel("Peers", "", peers.element),
    panel("Map", "half map", map.element),
    panel("Discovery", "half", discovery.element),
    panel("Feeds", "", feeds.element),
  );
  return { element, stop: () => scope.end() };
}

/** @param {any} status @returns {[string, string][]} */
function describe(status) {
  const behind = status.feeds_behind ? `${status.feeds_behind} behind` : "all up to date";
  return [
    ["Node", status.node_id],
    ["Network", `${status.network}, ${status.security === "tls" ? "encrypted" : "not encrypted"}`],
    ["Address for peers", status.p2p_address ?? "none"],
    ["From outside", status.reachability?.text ?? "no direct links"],
    ["Linked peers", `${status.peers_connected} of ${status.peers_known} known`],
    ["Nodes present", String(status.nodes_present)],
    ["Feeds", `${status.feeds}, ${behind}`],
  ];
}

/** @param {{name: string, nodes: string[]}[]} services @returns {Map<string, string[]>} */
function offersOf(services) {
  /** @type {Map<string, string[]>} */
  const found = new Map();
  for (const { name, nodes } of services) {
    for (const node of nodes) found.set(node, [...(found.get(node) ?? []), name]);
  }
  return found;
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

/** How a link came through a router; null if it needed nothing for that. @param {Peer} peer */
function wayThrough(peer) {
  if (peer.path === "mapped") return "port mapping";
  return peer.path === "punched" ? "punched" : null;
}

/** How a peer is reached, in a word. @param {Peer} peer */
function reached(peer) {
  if (peer.path === "relayed" && peer.via) {
    const clear = peer.encrypted === false ? ", clear" : "";
    return `relayed by ${shortId(peer.via)}${peer.encrypted ? ", end to end encrypted" : clear}`;
  }
  if (peer.status !== "connected") return peer.last_error ?? "not linked";
  const dialled = peer.direction === "in" ? "it dialled" : "dialled";
  const way = peer.carrier === "grenache" ? "over Grenache" : wayThrough(peer) ?? dialled;
  return peer.encrypted ? way : `${way}, not encrypted`;
}

/**
 * @param {import("../core/model.js").Model} model
 * @param {(peer: Peer) => string} offers services of a peer
 * @returns {Table<Peer>}
 */
function peersTable(model, offers) {
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
      { title: "Linked since", text: (p) => moment(p.connected_at) },
      { title: "Last heard", text: (p) => ago(p.last_seen) },
      { title: "Reputation", text: reputation, class: (p) => (p.reputation === "abusive" ? "wrap down" : "wrap") },
      { title: "Offers", text: offers, class: () => "wrap" },
      { title: "Version", text: (p) => p.version ?? "–" },
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

/** What this node knows of a peer, with the weightiest reason. @param {Peer} peer */
function reputation(peer) {
  if (!peer.reputation) return "–";
  const [reason] = peer.reputation_reasons ?? [];
  return reason === undefined ? peer.reputation : `${peer.reputation}: ${reason}`;
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

