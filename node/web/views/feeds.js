/** The table of feeds: owner, market, and distance to the latest event. */

import { Table } from "../core/dom.js";
import { shortId } from "../core/format.js";

/**
 * @typedef {object} Feed
 * @property {string} owner
 * @property {string} market
 * @property {number} number
 * @property {number} announced
 * @property {number} behind
 * @property {number} open_orders
 * @property {"own" | "direct" | "grenache" | "relayed" | "absent"} way
 * @property {string | null} given_up
 */

/** How the owner is reached, for people. */
const WAYS = /** @type {Record<string, string>} */ ({
  own: "this node",
  direct: "direct link",
  grenache: "over Grenache",
  relayed: "relayed by others",
  absent: "absent: its orders are not shown",
});

/** @returns {Table<Feed>} */
export function feedsTable() {
  return new Table(
    "Feeds, those behind first",
    [
      { title: "Owner", text: (f) => shortId(f.owner) },
      { title: "Market", text: (f) => f.market },
      { title: "Events here", text: (f) => String(f.number), numeric: true },
      { title: "Announced", text: (f) => String(f.announced), numeric: true },
      {
        title: "Behind",
        text: (f) => (f.behind === 0 ? "up to date" : `${f.behind} events`),
        class: (f) => (f.behind === 0 ? "" : "down"),
        numeric: true,
      },
      { title: "Open orders", text: (f) => String(f.open_orders), numeric: true },
      { title: "Owner is reached", text: (f) => WAYS[f.way] ?? f.way },
      { title: "", text: (f) => (f.given_up === null ? "" : `not held: ${f.given_up}`) },
    ],
    (f) => `${f.owner} ${f.market}`,
    "No feeds yet: nobody has placed an order.",
  );
}
