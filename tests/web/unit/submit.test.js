import assert from "node:assert/strict";
import { test } from "node:test";
import { Refused, Unanswered } from "../../../node/web/core/api.js";
import { NotPlaced, newClientId, place } from "../../../node/web/market/submit.js";

const ORDER = { id: "node-1", status: "open" };
const REQUEST = { market: "BTC-USD", client_id: "c1" };

/** A node that answers as told; what is an error is thrown. */
function node(post, gets) {
  const asked = [];
  const answer = (value) => {
    if (value instanceof Error) throw value;
    return value;
  };
  return {
    asked,
    post: async (path, body) => {
      asked.push(`POST ${body.client_id}`);
      return answer(post);
    },
    get: async (path) => {
      asked.push(`GET ${path.split("/").pop()}`);
      return answer(gets.shift());
    },
  };
}

const run = (api) => place(api, REQUEST, null, () => {}, async () => {});
const missing = () => new Refused({ status: 404, code: "unknown_order", detail: "" });

test("an answer is the order", async () => {
  const api = node(ORDER, []);
  assert.equal(await run(api), ORDER);
  assert.deepEqual(api.asked, ["POST c1"]);
});

test("a refusal is passed on, and nothing is looked up", async () => {
  const api = node(new Refused({ status: 422, code: "bad_order", detail: "no" }), []);
  await assert.rejects(run(api), Refused);
  assert.deepEqual(api.asked, ["POST c1"]);
});

test("a lost answer is looked up, and the order is never sent again", async () => {
  const api = node(new Unanswered("gone"), [new Unanswered("gone"), new Refused({ status: 503 }), missing(), ORDER]);
  assert.equal(await run(api), ORDER);
  assert.equal(api.asked.filter((line) => line.startsWith("POST")).length, 1);
});

test("an order that the node does not have was not placed", async () => {
  const api = node(new Unanswered("gone"), [missing(), missing(), missing(), ORDER]);
  await assert.rejects(run(api), NotPlaced);
  assert.equal(api.asked.length, 4);
});

test("a node that stays away leaves the outcome open", async () => {
  const api = node(new Unanswered("gone"), Array.from({ length: 100 }, () => new Unanswered("gone")));
  await assert.rejects(run(api), Unanswered);
});

test("client ids are distinct and short enough", () => {
  const ids = new Set(Array.from({ length: 500 }, newClientId));
  assert.equal(ids.size, 500);
  assert.ok([...ids].every((id) => /^web-[0-9a-f]{24}$/.test(id)));
});
