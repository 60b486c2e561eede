/** Quantities in words, short enough for a table. */

const STEPS = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];

/** How long ago, of seconds. */
export function age(seconds) {
  if (seconds < 1.5) return "now";
  const [size, unit] = STEPS.find(([step]) => seconds >= step);
  return `${Math.floor(seconds / size)} ${unit}`;
}

/** How long it took, of seconds. */
export function duration(seconds) {
  if (seconds < 0.0095) return `${(seconds * 1000).toFixed(1)} ms`;
  return seconds < 1 ? `${Math.round(seconds * 1000)} ms` : `${seconds.toFixed(1)} s`;
}

export function count(number, noun) {
  return `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : "s"}`;
}
