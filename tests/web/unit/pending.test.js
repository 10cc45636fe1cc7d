import assert from "node:assert/strict";
import test from "node:test";

import { PendingOrders, pendingOf } from "../../../node/web/market/pending.js";

function memory() {
  const values = new Map();
  return {
    getItem: (name) => values.get(name) ?? null,
    setItem: (name, value) => values.set(name, value),
    removeItem: (name) => values.delete(name),
    values,
  };
}

const order = (client_id, more = {}) => ({
  client_id,
  node_id: "node",
  account: 0,
  acted_for: null,
  text: "buy 1 TEST-USD",
  ...more,
});

test("an order is kept until it is forgotten, and nothing is left then", () => {
  const store = memory();
  const pending = new PendingOrders(store);
  pending.add(order("a"));
  pending.add(order("b"));
  pending.forget("a");
  assert.deepEqual(new PendingOrders(store).all().map((each) => each.client_id), ["b"]);
  pending.forget("b");
  assert.equal(store.values.size, 0);
});

test("orders of another node or account are left alone", () => {
  const pending = new PendingOrders(memory());
  pending.add(order("mine"));
  pending.add(order("elsewhere", { node_id: "other" }));
  pending.add(order("alice", { account: 3 }));
  const found = pendingOf(pending, { node_id: "node", account: 0 });
  assert.deepEqual(found.map((each) => each.client_id), ["mine"]);
});

test("a store that somebody spoiled is an empty one", () => {
  const store = memory();
  store.setItem("exchange-node-pending", "{not json");
  assert.deepEqual(new PendingOrders(store).all(), []);
});
