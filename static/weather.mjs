/** Observations in words, above the table that has them in full. */

import { element, say } from "./dom.mjs";
import { number } from "./json.mjs";
import { age } from "./words.mjs";

const CREDIT = "Weather data by Open-Meteo.com"; // asked for by its licence, CC BY 4.0

export class Weather {
  node = element("div", { class: "weather" });
  #list = element("ul");
  #credit = element("p", { class: "credit" });
  #places = new Map();

  constructor() {
    this.node.append(this.#list, this.#credit);
  }

  paint(items, now) {
    for (const [key, place] of this.#places) if (!items.has(key)) this.#remove(key, place);
    for (const [key, { value }] of items) this.#place(key).show(value ?? {}, now);
    const simulated = items.size && [...items.values()].every(({ value }) => isSimulated(value));
    say(this.#credit, (simulated ? "Simulated here. Without --demo: " : "") + CREDIT);
  }

  #place(key) {
    if (!this.#places.has(key)) {
      this.#places.set(key, new Place());
      this.#list.append(this.#places.get(key).node);
    }
    return this.#places.get(key);
  }

  #remove(key, place) {
    place.node.remove();
    this.#places.delete(key);
  }
}

class Place {
  #degrees = element("span", { class: "degrees" });
  #words = element("span", { class: "words" });
  #simulated = element("span", { class: "badge", hidden: true }, "simulated");
  #stale = element("span", { class: "badge warn", hidden: true }, "stale");
  #details = element("span", { class: "details" });
  node = element("li", {}, this.#degrees,
    element("span", {}, this.#words, this.#simulated, this.#stale, this.#details));

  show(value, now) {
    const degrees = number(value.temperature_c);
    say(this.#degrees, degrees === undefined ? "–" : `${degrees.toFixed(1)} °C`);
    say(this.#words, `${value.condition ?? "unknown"} in ${[value.city, value.country].filter(Boolean).join(", ")}`);
    this.#simulated.hidden = !isSimulated(value);
    this.#stale.hidden = !value.stale;
    say(this.#details, details(value, now));
  }
}

function isSimulated(value) {
  return value?.provider === "simulated";
}

function details(value, now) {
  const [wind, humidity, observed] = ["wind_ms", "humidity_pct", "observed_at"].map((name) => number(value[name]));
  const seconds = observed ?? Date.parse(value.observed_at) / 1000;
  const since = Number.isFinite(seconds) ? age(now / 1000 - seconds) : undefined;
  return [
    wind !== undefined && `wind ${wind} m/s`,
    humidity !== undefined && `humidity ${humidity} %`,
    since && `observed ${since === "now" ? "just now" : `${since} ago`}`,
  ].filter(Boolean).join(" · ");
}
