/**
 * Checksums of books, as the node makes them: for each entry one line of text, `c` its CRC-32, and the
 * sum of c * (2c + 1) over all lines modulo 2^32. An empty book has 0.
 */

const TABLE = new Uint32Array(256);
for (let byte = 0; byte < 256; byte++) {
  let value = byte;
  for (let bit = 0; bit < 8; bit++) value = value & 1 ? (value >>> 1) ^ 0xedb88320 : value >>> 1;
  TABLE[byte] = value;
}

/**
 * CRC-32 of a text of ASCII characters.
 * @param {string} text
 */
export function crc32(text) {
  let value = 0xffffffff;
  for (let at = 0; at < text.length; at++) {
    value = (value >>> 8) ^ TABLE[(value ^ text.charCodeAt(at)) & 0xff];
  }
  return (value ^ 0xffffffff) >>> 0;
}

/**
 * Part of one line in the checksum.
 * @param {string} line
 */
export function lineCheck(line) {
  const c = crc32(line);
  return Math.imul(c, (2 * c + 1) | 0) >>> 0;
}

/**
 * @param {"buy" | "sell"} side
 * @param {import("./types.js").Level} level
 */
export function levelCheck(side, [price, quantity, orders]) {
  return lineCheck(`${side}:${price}:${quantity}:${orders}`);
}

/**
 * @param {"buy" | "sell"} side
 * @param {import("./types.js").RestingOrder} order
 */
export function orderCheck(side, [id, price, quantity, time]) {
  return lineCheck(`${side}:${id}:${price}:${quantity}:${time}`);
}
