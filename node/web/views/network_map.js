/**
 * A map of links: this node in the middle, its neighbours around it, their neighbours outside. Places are
 * found by sorting, not by simulation, so that the map stays still while nothing changes.
 */

import { fill, h } from "../core/dom.js";
import { shortId } from "../core/format.js";

/**
 * @typedef {{node_id: string, distance: number, answered: boolean | null}} Node
 * @typedef {{a: string, b: string, carrier: string | null}} Link
 * @typedef {{x: number, y: number}} Place
 */

const HEIGHT = 320;
const NARROWEST = 280;
const RINGS = [0, 90, 138];
const MOST = 60; // nodes that are drawn

export class NetworkMap {
  constructor() {
    this.host = h("div", { class: "body" });
    this.list = h("p", { class: "hint" });
    this.element = h("div", {}, this.host, this.list);
    this.last = "";
  }

  /** @param {{nodes: Node[], links: Link[]}} topology */
  show(topology) {
    const text = JSON.stringify(topology);
    if (text === this.last) return;
    this.last = text;
    const nodes = topology.nodes.slice(0, MOST);
    const width = Math.max(NARROWEST, this.host.clientWidth - 20);
    const places = place(nodes, topology.links, width);
    const links = topology.links.flatMap((link) => {
      const [a, b] = [places.get(link.a), places.get(link.b)];
      if (a === undefined || b === undefined) return [];
      const kind = link.carrier === null ? "far" : link.carrier === "grenache" ? "relayed" : "";
      return [svg("line", { x1: a.x, y1: a.y, x2: b.x, y2: b.y, class: kind })];
    });
    const marks = nodes.flatMap((node) => mark(node, /** @type {Place} */ (places.get(node.node_id))));
    const near = nodes.filter((node) => node.distance === 1);
    const declined = near.filter((node) => node.answered === false).length;
    const [all, count] = [topology.nodes.length, topology.links.length];
    const summary = `Neighbours: ${near.length}. On the map: ${all} nodes, ${count} links.`;
    const picture = svg("svg", { viewBox: `0 0 ${width} ${HEIGHT}`, role: "img", "aria-label": summary });
    picture.append(...links, ...marks);
    fill(this.host, picture);
    const note = declined > 0 ? ` ${declined} did not tell their links.` : "";
    this.list.textContent = summary + note;
  }
}

/** @param {Node[]} nodes @param {Link[]} links @param {number} width @returns {Map<string, Place>} */
function place(nodes, links, width) {
  const stretch = Math.min(2.6, (width / 2 - 40) / RINGS[2]);
  /** @type {Map<string, number>} */
  const angles = new Map();
  const near = nodes.filter((node) => node.distance === 1).map((node) => node.node_id).sort();
  near.forEach((id, at) => angles.set(id, (at / near.length) * 2 * Math.PI));
  // A node further out stands where its neighbours are.
  for (const { node_id: id, distance } of nodes) {
    if (distance < 2) continue;
    const around = links.flatMap(({ a, b }) => (a === id ? [b] : b === id ? [a] : [])).map((n) => angles.get(n));
    const known = around.filter((angle) => angle !== undefined);
    const x = known.reduce((sum, angle) => sum + Math.cos(angle), 0);
    const y = known.reduce((sum, angle) => sum + Math.sin(angle), 0);
    angles.set(id, Math.atan2(y, x) + 0.3 * (hash(id) - 0.5));
  }
  return new Map(
    nodes.map(({ node_id: id, distance }) => {
      const radius = RINGS[Math.min(distance, 2)];
      const angle = angles.get(id) ?? 0;
      return [id, { x: width / 2 + stretch * radius * Math.cos(angle), y: HEIGHT / 2 - 6 + radius * Math.sin(angle) }];
    }),
  );
}

/** @param {string} text @returns {number} 0 to 1, the same for the same text */
function hash(text) {
  let value = 7;
  for (const letter of text) value = (value * 31 + letter.charCodeAt(0)) % 9973;
  return value / 9973;
}

/** @param {Node} node @param {Place} at */
function mark(node, { x, y }) {
  const kind = ["self", "near", "far"][Math.min(node.distance, 2)];
  const circle = svg("circle", { cx: x, cy: y, r: node.distance === 0 ? 11 : 7, class: kind });
  const title = svg("title", {});
  title.textContent = node.node_id;
  circle.append(title);
  const label = svg("text", { x, y: y + 22 });
  label.textContent = shortId(node.node_id);
  return [circle, label];
}

/** @param {string} name @param {Record<string, string | number>} attributes */
function svg(name, attributes) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, String(value));
  return element;
}
