import assert from "node:assert/strict";
import { test } from "node:test";
import { Book, BookFault, LEVELS, ORDERS, splitOrderId } from "../../../node/web/core/book.js";
import { crc32, lineCheck } from "../../../node/web/core/checksum.js";

/** A message of a book with the checksum that `wanted` entries have. */
function message(event, sequence, checksum, bids, asks) {
  return { event, sequence, checksum, time: "2026-01-02T03:04:05.678Z", bids, asks };
}

const check = (...lines) => lines.reduce((sum, line) => (sum + lineCheck(line)) >>> 0, 0);

test("lines have the checksums that the node gives them", () => {
  assert.equal(crc32("123456789"), 0xcbf43926);
  // Made by node/streams/checks.py.
  assert.equal(lineCheck("buy:30000:0.5:2"), 1876585526);
  assert.equal(lineCheck("sell:30000.1:12.00001:1"), 3664711326);
  assert.equal(lineCheck("buy:a2b3c4d5-12:30000:0.5:2026-01-02T03:04:05.678901Z"), 466458268);
});

test("levels stand best first, by value and not by text", () => {
  const book = new Book(LEVELS);
  const bids = [["9.5", "1", 1], ["10", "2", 1]];
  const asks = [["100", "1", 1], ["20", "3", 2]];
  const sum = check("buy:9.5:1:1", "buy:10:2:1", "sell:100:1:1", "sell:20:3:2");
  book.apply(message("book_l2_snapshot", 1, sum, bids, asks));
  assert.deepEqual(book.bids.sorted.map((held) => held.entry[0]), ["10", "9.5"]);
  assert.deepEqual(book.asks.sorted.map((held) => held.entry[0]), ["20", "100"]);
});

test("a change replaces, adds and removes levels", () => {
  const book = new Book(LEVELS);
  book.apply(message("book_l2_snapshot", 1, check("buy:10:2:1"), [["10", "2", 1]], []));
  const after = check("buy:11:1:1", "sell:12:5:3");
  book.apply(message("book_l2", 2, after, [["10", "0", 0], ["11", "1", 1]], [["12", "5", 3]]));
  assert.deepEqual(book.bids.sorted.map((held) => held.entry), [["11", "1", 1]]);
  book.apply(message("book_l2", 3, 0, [["11", "0", 0], ["9", "0", 0]], [["12", "0", 0]]));
  assert.equal(book.checksum, 0);
  assert.equal(book.asks.sorted.length, 0);
});

test("a book that is not the node's is noticed", () => {
  const book = new Book(LEVELS);
  book.apply(message("book_l2_snapshot", 1, check("buy:10:2:1"), [["10", "2", 1]], []));
  assert.throws(() => book.apply(message("book_l2", 2, 7, [["10", "1", 1]], [])), BookFault);
});

test("a snapshot replaces everything", () => {
  const book = new Book(LEVELS);
  book.apply(message("book_l2_snapshot", 1, check("buy:10:2:1"), [["10", "2", 1]], []));
  book.apply(message("book_l2_snapshot", 9, check("sell:3:1:1"), [], [["3", "1", 1]]));
  assert.equal(book.bids.sorted.length, 0);
  assert.equal(book.sequence, 9);
});

test("orders of one price go by time, then node, then number", () => {
  const book = new Book(ORDERS);
  const order = (id, time) => [id, "10", "1", time, false];
  const asks = [order("b-2", "2026-01-01T00:00:01.000000Z"), order("b-10", "2026-01-01T00:00:01.000000Z"), order("a-7", "2026-01-01T00:00:01.000000Z"), order("z-1", "2026-01-01T00:00:00.000000Z")];
  const sum = check(...asks.map(([id, price, quantity, time]) => `sell:${id}:${price}:${quantity}:${time}`));
  book.apply(message("book_l3_snapshot", 1, sum, [], asks));
  assert.deepEqual(book.asks.sorted.map((held) => held.entry[0]), ["z-1", "a-7", "b-2", "b-10"]);
  assert.deepEqual(splitOrderId("node-with-dashes-12"), ["node-with-dashes", 12]);
});

test("thousands of random changes keep order and checksum", () => {
  const book = new Book(LEVELS);
  const truth = new Map();
  let seed = 7;
  const random = (most) => (seed = (seed * 1103515245 + 12345) % 2 ** 31) % most;
  for (let sequence = 1; sequence <= 3000; sequence++) {
    const price = `${100 + random(60)}.${random(10)}`.replace(/\.0$/, "");
    const quantity = random(3) === 0 ? "0" : String(1 + random(9));
    const orders = quantity === "0" ? 0 : 1 + random(4);
    if (quantity === "0") truth.delete(price);
    else truth.set(price, [price, quantity, orders]);
    const sum = check(...[...truth.values()].map(([p, q, o]) => `buy:${p}:${q}:${o}`));
    book.apply(message("book_l2", sequence, sum, [[price, quantity, orders]], []));
  }
  const prices = book.bids.sorted.map((held) => Number(held.entry[0]));
  assert.deepEqual(prices, [...prices].sort((a, b) => b - a));
  assert.equal(prices.length, truth.size);
});
