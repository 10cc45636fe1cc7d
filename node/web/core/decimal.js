/**
 * Exact decimals. Amounts of money never become binary floats: a decimal is a BigInt of units and the
 * number of digits behind the point. Only pixels are computed with numbers (`toNumber`).
 */

const PLAIN = /^([+-]?)(\d*)(?:\.(\d*))?$/;
/** Longest text that is looked at, as on the node. */
const MAX_TEXT = 40;

/** @param {number} digits @returns {bigint} */
function power(digits) {
  return 10n ** BigInt(digits);
}

export class Decimal {
  /**
   * @param {bigint} units
   * @param {number} scale digits behind the point
   */
  constructor(units, scale) {
    this.units = units;
    this.scale = scale;
    Object.freeze(this);
  }

  /**
   * Read a plain decimal; null when the text is none.
   * @param {string} text
   * @returns {Decimal | null}
   */
  static parse(text) {
    const match = text.length <= MAX_TEXT ? PLAIN.exec(text.trim()) : null;
    if (match === null) return null;
    const [, sign, whole = "", fraction = ""] = match;
    if (whole === "" && fraction === "") return null;
    const units = BigInt(whole + fraction);
    return new Decimal(sign === "-" ? -units : units, fraction.length);
  }

  /**
   * Read a decimal that the node sent.
   * @param {string} text
   * @returns {Decimal}
   */
  static of(text) {
    const found = Decimal.parse(text);
    if (found === null) throw new RangeError(`not a decimal: ${text}`);
    return found;
  }

  /** @param {number} scale @returns {bigint} units at this many digits, which must suffice */
  #at(scale) {
    return this.units * power(scale - this.scale);
  }

  /** @param {Decimal} other */
  plus(other) {
    const scale = Math.max(this.scale, other.scale);
    return new Decimal(this.#at(scale) + other.#at(scale), scale);
  }

  /** @param {Decimal} other */
  minus(other) {
    return this.plus(other.negated());
  }

  /** @param {Decimal} other */
  times(other) {
    return new Decimal(this.units * other.units, this.scale + other.scale);
  }

  /**
   * Divide, with the quotient cut towards zero to this many digits.
   * @param {Decimal} other
   * @param {number} scale
   */
  over(other, scale) {
    if (other.units === 0n) throw new RangeError("division by zero");
    const shift = scale + other.scale - this.scale;
    const top = shift >= 0 ? this.units * power(shift) : this.units;
    const bottom = shift >= 0 ? other.units : other.units * power(-shift);
    return new Decimal(top / bottom, scale);
  }

  negated() {
    return new Decimal(-this.units, this.scale);
  }

  abs() {
    return this.units < 0n ? this.negated() : this;
  }

  /**
   * -1, 0 or 1.
   * @param {Decimal} other
   */
  compare(other) {
    const scale = Math.max(this.scale, other.scale);
    const [a, b] = [this.#at(scale), other.#at(scale)];
    return a < b ? -1 : a > b ? 1 : 0;
  }

  /** @param {Decimal} other */
  below(other) {
    return this.compare(other) < 0;
  }

  get isZero() {
    return this.units === 0n;
  }

  get isNegative() {
    return this.units < 0n;
  }

  get isPositive() {
    return this.units > 0n;
  }

  /**
   * The lesser of two.
   * @param {Decimal} other
   * @returns {Decimal}
   */
  min(other) {
    return this.below(other) ? this : other;
  }

  /**
   * Round to a whole number of steps.
   * @param {Decimal} step
   * @param {"up" | "down"} way away from zero, or towards it
   * @returns {Decimal}
   */
  toStep(step, way) {
    const scale = Math.max(this.scale, step.scale);
    const [a, b] = [this.abs().#at(scale), step.#at(scale)];
    const steps = a / b + (way === "up" && a % b !== 0n ? 1n : 0n);
    return new Decimal((this.units < 0n ? -steps : steps) * b, scale);
  }

  /** @param {Decimal} step */
  isMultipleOf(step) {
    return this.toStep(step, "down").compare(this) === 0;
  }

  /** Plain digits without trailing zeros, as the node writes them. */
  toString() {
    const text = this.toFixed(this.scale);
    return this.scale === 0 ? text : text.replace(/\.?0+$/, "");
  }

  /**
   * Pad to at least this many digits behind the point; further digits are kept.
   * @param {number} digits
   */
  toFixed(digits) {
    const scale = Math.max(digits, this.scale);
    const sign = this.units < 0n ? "-" : "";
    const text = this.abs().#at(scale).toString().padStart(scale + 1, "0");
    if (scale === 0) return sign + text;
    return `${sign}${text.slice(0, -scale)}.${text.slice(-scale)}`;
  }

  /** For positions on a screen only. */
  toNumber() {
    return Number(this.toString());
  }
}

export const ZERO = new Decimal(0n, 0);
export const ONE = new Decimal(1n, 0);

/**
 * Digits behind the point of a step such as "0.00001".
 * @param {string} step
 */
export function digitsOf(step) {
  return Decimal.of(Decimal.of(step).toString()).scale;
}

/**
 * A decimal from the node, padded so that points stand below each other.
 * @param {string} text
 * @param {number} digits
 */
export function padded(text, digits) {
  return Decimal.parse(text)?.toFixed(digits) ?? text;
}

/**
 * The decimals that the longest of some numbers has: a step may allow many more than are in use.
 * @param {string[]} texts as the node writes them
 */
export function mostDigits(texts) {
  const digits = (/** @type {string} */ text) => (text.includes(".") ? text.length - text.indexOf(".") - 1 : 0);
  return texts.reduce((most, text) => Math.max(most, digits(text)), 0);
}
