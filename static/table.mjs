/**
 * One channel on the page: its items as the messages told them, and a table of them. Messages change the items at once
 * and mark what changed; `paint`, once per frame at most, brings the table up to the items, touching only what is
 * marked. So a key that changes a thousand times a second costs one text per frame.
 */

import { element, say } from "./dom.mjs";
import { isObject } from "./json.mjs";
import { age, count } from "./words.mjs";

const MOST_ROWS = 500;
const MOST_TEXT = 400; // characters of a value, or of one member of it
const MOST_MEMBERS = 40;
const FLASH = 900; // ms
const { compare } = new Intl.Collator("en", { numeric: true });
const still = matchMedia("(prefers-reduced-motion: reduce)");

/** A key with its value as JSON and when it was written, by the page's clock; `at` 0: before the page looked. */
class Item {
  constructor(value, at = 0, version = "") {
    Object.assign(this, { value, at, version, text: JSON.stringify(value) });
  }
}

export class Table {
  items = new Map();
  known = false; // whether the items are
  #keys = []; // in the order of the table
  #rows = new Map();
  #marked = new Map(); // key -> whether its change is worth a flash
  #moved = true; // the set of keys is not what the table shows
  #body = element("tbody");
  #facts = element("span", { class: "facts" });
  #count = element("span", { class: "count" }, "loading …");
  #more = element("p", { class: "more", hidden: true });
  #trouble = element("p", { class: "trouble", hidden: true });
  #box;

  /** `pick(key, text)` is called when a row is chosen. */
  constructor(channel, pick) {
    const head = element("tr", {}, ...["Key", "Value", "Changed"].map((name) => element("th", { scope: "col" }, name)));
    const table = element("table", { "aria-label": channel }, element("thead", {}, head), this.#body);
    const title = element("h3", {}, channel.slice(channel.indexOf("/") + 1));
    this.#box = element("div", { class: "scroll" }, table);
    this.node = element("div", { class: "collection", "data-channel": channel },
      element("div", { class: "title" }, title, this.#facts, this.#count),
      this.#trouble, this.#box, this.#more);
    this.#body.addEventListener("click", (event) => this.#clicked(event, pick));
  }

  /** What the store says of the collection: of `{"key": ["id"], "items": 5}`, `key: id`. The page counts by itself. */
  describe(facts) {
    const short = Object.entries(facts).filter(([, fact]) => typeof fact === "string" || Array.isArray(fact));
    say(this.#facts, short.map(([name, fact]) => `${name}: ${[fact].flat().join(", ")}`).join(" · "));
  }

  /** The whole state. What did not change keeps its age and does not flash. */
  replace(items) {
    const before = this.items;
    this.items = new Map();
    for (const [key, value] of items) {
      const item = new Item(value);
      const old = before.get(key);
      this.items.set(key, old?.text === item.text ? old : item);
      if (old?.text !== item.text) this.#marked.set(key, this.known && old !== undefined);
    }
    this.#keys = [...items.keys()].sort(compare);
    this.#moved = this.known = true;
    this.fail(null);
  }

  put(key, value, at, version) {
    if (!this.items.has(key)) this.#place(key);
    this.items.set(key, new Item(value, at, version));
    this.#marked.set(key, true);
  }

  delete(key) {
    if (!this.items.delete(key)) return;
    this.#keys.splice(this.#keys.indexOf(key), 1);
    this.#moved = true;
  }

  /** Why this channel cannot be shown at present; null: it can. */
  fail(error) {
    say(this.#trouble, error ? `${error.message}${error.hint ? ` (${error.hint})` : ""}` : "");
    this.#trouble.hidden = !error;
    if (error && !this.known) say(this.#count, "not loaded");
  }

  paint() {
    if (this.#moved) this.#layOut();
    for (const [key, changed] of this.#marked) this.#rows.get(key)?.show(this.items.get(key), changed);
    this.#marked.clear();
  }

  /** Bring the ages up to `now`. */
  tick(now) {
    for (const [key, row] of this.#rows) row.age(this.items.get(key), now);
  }

  #place(key) {
    let [low, high] = [0, this.#keys.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (compare(this.#keys[middle], key) < 0) low = middle + 1;
      else high = middle;
    }
    this.#keys.splice(low, 0, key);
    this.#moved = true;
  }

  /** One row per shown key, in order. Rows that stay are not touched, so that focus and selection stay, too. */
  #layOut() {
    const shown = this.#keys.slice(0, MOST_ROWS);
    const wanted = new Set(shown);
    for (const [key, row] of this.#rows) if (!wanted.has(key)) this.#remove(key, row);
    let next = this.#body.firstChild;
    for (const key of shown) {
      const row = this.#rows.get(key) ?? this.#add(key);
      if (row.node === next) next = next.nextSibling;
      else this.#body.insertBefore(row.node, next);
    }
    this.#sum();
    this.#moved = false;
  }

  #add(key) {
    const row = new Row(key);
    this.#rows.set(key, row);
    if (!this.#marked.has(key)) this.#marked.set(key, false);
    return row;
  }

  #remove(key, row) {
    row.node.remove();
    this.#rows.delete(key);
  }

  #sum() {
    const rest = this.#keys.length - MOST_ROWS;
    if (this.known) say(this.#count, count(this.#keys.length, "key"));
    this.#box.hidden = !this.#keys.length;
    this.#more.hidden = rest <= 0;
    say(this.#more, rest > 0 ? `The first ${MOST_ROWS} keys are shown; ${count(rest, "more key")} not.` : "");
  }

  #clicked(event, pick) {
    const key = event.target.closest("tr")?.dataset.key;
    if (key !== undefined && getSelection().isCollapsed) pick(key, this.items.get(key).text);
  }
}

class Row {
  #value = element("code");
  #age = element("td", { class: "age" });
  #names = null; // of the members shown, joined; null: the value is shown as one text
  #parts = [];
  #flashedAt = 0;

  constructor(key) {
    const button = element("button", { type: "button", class: "key", title: "Edit this key" }, key);
    this.node = element("tr", { "data-key": key },
      element("th", { scope: "row" }, button), element("td", { class: "value" }, this.#value), this.#age);
  }

  show(item, changed) {
    const [names, texts] = pieces(item);
    const before = this.#parts.map((part) => part.textContent);
    const rebuilt = names !== this.#names || texts.length !== before.length;
    if (rebuilt) this.#build(names, texts);
    else texts.forEach((text, index) => say(this.#parts[index], text));
    const differs = (_, index) => texts[index] !== before[index];
    if (changed) this.#flash(rebuilt ? [this.#value] : this.#parts.filter(differs));
    this.#age.title = item.at ? new Date(item.at).toLocaleString() : "not since this page looked";
    this.age(item, Date.now());
  }

  age(item, now) {
    say(this.#age, item.at ? age((now - item.at) / 1000) : "–");
  }

  #build(names, texts) {
    this.#names = names;
    this.#parts = texts.map((text) => element("span", { class: "part" }, text));
    if (names === null) return this.#value.replaceChildren(...this.#parts);
    const list = JSON.parse(names);
    const members = this.#parts.map((part, index) => element("span", { class: "member" },
      index ? "" : "{", element("span", { class: "name" }, `${list[index]}:`), part,
      index < list.length - 1 ? "," : "}"));
    return this.#value.replaceChildren(...members);
  }

  /** At most one at a time: what changes faster than the eye can follow would else glow for ever. */
  #flash(parts) {
    const now = performance.now();
    if (still.matches || now - this.#flashedAt < FLASH) return;
    this.#flashedAt = now;
    for (const part of parts) part.animate({ backgroundColor: ["var(--flash)", "transparent"] }, { duration: FLASH });
  }
}

/** The value as compact JSON in pieces that change one by one: [names of its members or null, texts]. */
function pieces({ value, text }) {
  const members = isObject(value) ? Object.entries(value) : [];
  if (!members.length || members.length > MOST_MEMBERS) return [null, [clipped(text)]];
  const names = JSON.stringify(members.map(([name]) => JSON.stringify(name)));
  return [names, members.map(([, member]) => clipped(JSON.stringify(member)))];
}

function clipped(text) {
  return text.length > MOST_TEXT ? `${text.slice(0, MOST_TEXT)} … ${count(text.length, "character")}` : text;
}
