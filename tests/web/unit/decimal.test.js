import assert from "node:assert/strict";
import { test } from "node:test";
import { Decimal, ZERO, digitsOf, mostDigits, padded } from "../../../node/web/core/decimal.js";

const d = (text) => Decimal.of(text);

test("sums and products have every digit, where binary floats do not", () => {
  assert.equal(String(d("0.1").plus(d("0.2"))), "0.3");
  assert.equal(String(d("1.1").times(d("1.1"))), "1.21");
  assert.equal(String(d("999999999.9").times(d("9999.99999"))), "9999999989000.000001");
  assert.equal(String(d("9007199254740993").plus(d("0.00000001"))), "9007199254740993.00000001");
});

test("texts are canonical", () => {
  for (const [text, wanted] of [
    ["1.500", "1.5"],
    ["100", "100"],
    ["-0.10", "-0.1"],
    [".5", "0.5"],
    ["5.", "5"],
    ["0.000", "0"],
    ["+7", "7"],
  ]) {
    assert.equal(String(d(text)), wanted);
  }
});

test("what is no plain decimal is none", () => {
  for (const text of ["", ".", "-", "1e5", "0x10", "1,5", "NaN", "Infinity", "1.2.3", "1 2", "9".repeat(41)]) {
    assert.equal(Decimal.parse(text), null, text);
  }
});

test("quotients are cut towards zero", () => {
  assert.equal(String(d("2").over(d("3"), 4)), "0.6666");
  assert.equal(String(d("-2").over(d("3"), 4)), "-0.6666");
  assert.equal(String(d("1.21").over(d("0.0011"), 0)), "1100");
  assert.throws(() => d("1").over(ZERO, 2), RangeError);
});

test("steps are rounded the way that is asked for", () => {
  assert.equal(String(d("30000.17").toStep(d("0.1"), "down")), "30000.1");
  assert.equal(String(d("30000.17").toStep(d("0.1"), "up")), "30000.2");
  assert.equal(String(d("30000.2").toStep(d("0.1"), "up")), "30000.2");
  assert.equal(String(d("7").toStep(d("2.5"), "down")), "5");
  assert.ok(d("0.3").isMultipleOf(d("0.1")));
  assert.ok(!d("0.35").isMultipleOf(d("0.1")));
});

test("comparison does not depend on how a number was written", () => {
  assert.equal(d("1.50").compare(d("1.5")), 0);
  assert.ok(d("-1").below(d("0.1")));
  assert.equal(String(d("2").min(d("1.999"))), "1.999");
});

test("padding keeps every digit", () => {
  assert.equal(padded("30000", 1), "30000.0");
  assert.equal(padded("0.12345", 2), "0.12345");
  assert.equal(digitsOf("0.00001"), 5);
  assert.equal(digitsOf("10"), 0);
});

test("numbers are shown with the decimals that the longest of them has", () => {
  assert.equal(mostDigits(["1", "0.25", "3.5"]), 2);
  assert.equal(mostDigits(["10", "7"]), 0);
  assert.equal(mostDigits([]), 0);
});
