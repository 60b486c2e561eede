/**
 * JSON that keeps its digits: 22.0 stays 22.0, and a bigint column is not rounded to the nearest double. Where the
 * browser cannot say how a number was written, numbers are what they always were.
 */

const exact = typeof JSON.rawJSON === "function";

/** Like JSON.parse; a number whose text JavaScript would not write again is kept as a JSON.rawJSON object. */
export function parse(text) {
  return exact ? JSON.parse(text, keepDigits) : JSON.parse(text);
}

function keepDigits(_, value, context) {
  const rewritten = typeof value === "number" && context?.source !== undefined && String(value) !== context.source;
  return rewritten ? JSON.rawJSON(context.source) : value;
}

/** A number out of `parse`, to reckon with; undefined for what is none. */
export function number(value) {
  const plain = isRaw(value) ? Number(value.rawJSON) : value;
  return Number.isFinite(plain) ? plain : undefined;
}

/** Whether a value has members: not a number that was kept as it was written. */
export function isObject(value) {
  return typeof value === "object" && value !== null && !Array.isArray(value) && !isRaw(value);
}

function isRaw(value) {
  return exact && JSON.isRawJSON(value);
}
