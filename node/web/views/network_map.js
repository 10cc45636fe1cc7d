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
const MIDDLE = HEIGHT / 2 - 6;
const CLEAR = 34; // between this node and lines that are not its own
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
    const self = nodes.find((node) => node.distance === 0)?.node_id;
    const links = topology.links.flatMap((link) => {
      const [a, b] = [places.get(link.a), places.get(link.b)];
      if (a === undefined || b === undefined) return [];
      const kind = link.carrier === null ? "far" : link.carrier === "grenache" ? "relayed" : "";
      const straight = link.a === self || link.b === self;
      return [svg("path", { d: straight ? `M${a.x} ${a.y}L${b.x} ${b.y}` : around(a, b, width), class: kind })];
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
  const apart = (2 * Math.PI) / Math.max(3, near.length);
  near.forEach((id, at) => angles.set(id, at * apart - Math.PI / 2));
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
      return [id, { x: width / 2 + stretch * radius * Math.cos(angle), y: MIDDLE + radius * Math.sin(angle) }];
    }),
  );
}

/**
 * The line of a link between two others: bent where it would run through this node in the middle.
 * @param {Place} a @param {Place} b @param {number} width
 */
function around(a, b, width) {
  const [x, y] = [(a.x + b.x) / 2 - width / 2, (a.y + b.y) / 2 - MIDDLE];
  const away = Math.hypot(x, y);
  if (away > CLEAR) return `M${a.x} ${a.y}L${b.x} ${b.y}`;
  const long = Math.hypot(b.x - a.x, b.y - a.y) || 1;
  const [dx, dy] = away > 1 ? [x / away, y / away] : [(a.y - b.y) / long, (b.x - a.x) / long];
  const [cx, cy] = [width / 2 + dx * 2 * CLEAR, MIDDLE + dy * 2 * CLEAR];
  return `M${a.x} ${a.y}Q${cx} ${cy} ${b.x} ${b.y}`;
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
  const label = svg("text", { x, y: y < MIDDLE - 1 ? y - 13 : y + 22 });
  label.textContent = shortId(node.node_id);
  return [circle, label];
}

/** @param {string} name @param {Record<string, string | number>} attributes */
function svg(name, attributes) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, String(value));
  return element;
}
