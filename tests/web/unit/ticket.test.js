import assert from "node:assert/strict";
import { test } from "node:test";
import { Decimal } from "../../../node/web/core/decimal.js";
import { TRAILING_OFFSET } from "../../../node/web/core/fields.js";
import { Mistake, emptyDraft, fieldsFor, requestOf, timeChoices } from "../../../node/web/market/order_types.js";
import { preview } from "../../../node/web/market/preview.js";

const MARKET = {
  symbol: "BTC-USD",
  base: "BTC",
  quote: "USD",
  tick: "0.1",
  lot: "0.00001",
  protection: "0.05",
};
const d = (text) => Decimal.of(text);
const draft = (values) => ({ ...emptyDraft("BTC-USD"), quantity: "1", ...values });

function surroundings(values = {}) {
  const level = (price, quantity) => ({ price: d(price), quantity: d(quantity) });
  const order = (id, price, quantity) => ({ price: d(price), entry: [id, price, quantity, "", false] });
  return {
    market: MARKET,
    against: [level("30000", "0.5"), level("30010", "0.25"), level("30020", "4")],
    orders: [order("aaaa-1", "30000", "0.3"), order("bbbb-9", "30000", "0.2"), order("aaaa-2", "30010", "0.25")],
    last: d("30000"),
    balances: new Map([["USD", { available: d("50000") }], ["BTC", { available: d("2") }]]),
    makerFee: d("0.001"),
    takerFee: d("0.002"),
    doubtful: new Set(["bbbb"]),
    ...values,
  };
}

function look(values, around = surroundings()) {
  const made = draft(values);
  return preview(made, requestOf(made, MARKET), around);
}

test("each type asks for its own prices", () => {
  const prices = (type) => ["price", "stop", "offset", "ocoStop", "worst"].filter((name) => fieldsFor(draft({ type })).has(name));
  assert.deepEqual(prices("limit"), ["price"]);
  assert.deepEqual(prices("market"), ["worst"]);
  assert.deepEqual(prices("stop"), ["stop", "worst"]);
  assert.deepEqual(prices("stop_limit"), ["price", "stop"]);
  assert.deepEqual(prices("trailing_stop"), ["stop", "offset"]);
  assert.deepEqual(prices("oco"), ["price", "ocoStop"]);
});

test("what cannot go together is not offered", () => {
  const limit = (values) => fieldsFor(draft({ type: "limit", ...values }));
  assert.ok(!limit({ tif: "ioc" }).has("postOnly"));
  assert.ok(!limit({ tif: "fok" }).has("visibility"));
  assert.ok(!limit({ visibility: "hidden" }).has("postOnly"));
  assert.ok(!limit({ postOnly: true }).has("visibility"));
  assert.ok(limit({ visibility: "iceberg" }).has("display"));
  assert.ok(limit({ tif: "gtd" }).has("expires"));
  assert.deepEqual(timeChoices(draft({ type: "oco" })).map(([name]) => name), ["gtc", "gtd"]);
});

test("requests have what the type needs and nothing else", () => {
  assert.deepEqual(requestOf(draft({ price: "30000.10", stop: "1", worst: "2" }), MARKET), {
    market: "BTC-USD",
    side: "buy",
    quantity: "1",
    price: "30000.1",
  });
  assert.deepEqual(requestOf(draft({ type: "trailing_stop", side: "sell", offset: "500" }), MARKET), {
    market: "BTC-USD",
    side: "sell",
    quantity: "1",
    [TRAILING_OFFSET]: "500",
  });
});

test("mistakes name their field and say what to do", () => {
  const mistake = (values) => {
    try {
      requestOf(draft(values), MARKET);
    } catch (error) {
      assert.ok(error instanceof Mistake);
      return [error.field, error.message];
    }
    return null;
  };
  assert.deepEqual(mistake({ price: "30000.15" }), ["price", "Price: goes in steps of 0.1, e.g. 30000.1"]);
  assert.equal(mistake({ price: "30000", quantity: "" })[0], "quantity");
  assert.equal(mistake({ price: "-1" })[0], "price");
  assert.equal(mistake({ price: "1", visibility: "iceberg" })[0], "display");
  assert.equal(mistake({ price: "1", tif: "gtd", expires: "" })[0], "expires");
});

test("a limit order is walked through the book as far as its price", () => {
  const found = look({ price: "30010" });
  assert.equal(String(found.filled), "0.75");
  assert.equal(String(found.rest), "0.25");
  assert.equal(String(found.average), "30003.333333333"); // (0.5 * 30000 + 0.25 * 30010) / 0.75
  assert.equal(String(found.held), "30010");
  assert.equal(`${found.fee} ${found.feeAsset}`, "0.0015 BTC");
  assert.deepEqual(
    found.nodes.map(({ node, quantity, doubtful }) => `${node} ${quantity} ${doubtful}`),
    ["aaaa 0.55 false", "bbbb 0.2 true"],
  );
  // 2 + 0.75 - fee; 50000 - 22502.5 - 0.25 * 30010
  assert.deepEqual(found.after.map(({ asset, amount }) => `${amount} ${asset}`), ["2.7485 BTC", "19995 USD"]);
});

test("a market order is bounded by the market's protection", () => {
  const found = look({ type: "market" });
  assert.equal(String(found.worst), "31500");
  assert.equal(String(found.filled), "1");
  assert.equal(String(found.unattributed), "0.25");
});

test("fill or kill that is not full trades nothing; post-only never takes", () => {
  assert.equal(String(look({ price: "30000", tif: "fok" }).filled), "0");
  assert.equal(String(look({ price: "30010", postOnly: true }).filled), "0");
});

test("the house holds nothing and pays nothing", () => {
  const found = look({ price: "30010" }, surroundings({ balances: null }));
  assert.equal(found.held, null);
  assert.ok(found.fee.isZero);
});

test("far prices, much of the book and too little money ask again", () => {
  assert.deepEqual(look({ price: "30000", quantity: "0.1" }).warnings, []);
  assert.match(look({ price: "20000" }).warnings[0], /more than 5 % from 30000/);
  assert.match(look({ type: "market", quantity: "3" }).warnings[0], /more than half/);
  assert.match(look({ price: "30000", quantity: "2" }).warnings[0], /needs 60000 USD, and 50000 is available/);
  const thin = surroundings({ against: [{ price: d("30000"), quantity: d("1") }, { price: d("31000"), quantity: d("9") }] });
  assert.match(look({ type: "market", quantity: "2" }, thin).warnings[0], /as far as 31000/);
});
