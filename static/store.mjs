/** One store on the page: how current it is, its collections, and how to change it from a terminal. */

import { element, say } from "./dom.mjs";
import { TITLES, linesFor } from "./hints.mjs";
import { Table } from "./table.mjs";
import { Weather } from "./weather.mjs";
import { duration } from "./words.mjs";

const STATES = {
  live: "",
  lagging: "Its changes do not reach this server at present: what is shown here may be stale.",
  down: "It does not answer: what is shown here is stale.",
};

export class Store {
  tables = new Map(); // by channel
  state = "unknown";
  #pick;
  #chipState = element("span", { class: "state" });
  #lag = element("span", { class: "lag", title: "from the last change's commit to this server" });
  #note = element("p", { class: "note", hidden: true });
  #list = element("div", { class: "collections" });
  #terminal;
  #weather = null;

  /** `pick(channel, key, text)` is called when a row is chosen. */
  constructor(name, pick) {
    this.name = name;
    this.#pick = pick;
    const title = TITLES[name] ?? name;
    this.chip = element("li", {}, element("a", { href: `#store-${name}` },
      element("span", { class: "dot", "aria-hidden": "true" }), element("span", {}, title),
      this.#chipState, this.#lag));
    this.node = element("section", { class: "store", id: `store-${name}`, "aria-labelledby": `title-${name}` },
      element("h2", { id: `title-${name}` }, title), this.#note);
    if (name === "weather") {
      this.#weather = new Weather();
      this.node.append(this.#weather.node);
    }
    this.#terminal = terminal(name);
    this.node.append(this.#list, this.#terminal);
  }

  /** How current it is; `lag` in seconds, as last seen. */
  source({ state, lag, error = "" }) {
    this.state = this.node.dataset.state = state;
    this.node.classList.toggle("stale", state !== "live");
    say(this.#lag, state === "live" && lag ? duration(lag) : "");
    this.reach(true);
    say(this.#note, [STATES[state], error].filter(Boolean).join(" "));
    this.#note.hidden = !this.#note.textContent;
  }

  /** Whether the server is in reach: what it said of the store is else no longer known to be so. */
  reach(reached) {
    this.chip.dataset.state = reached ? this.state : "unknown";
    say(this.#chipState, this.chip.dataset.state);
    this.#lag.hidden = !reached;
  }

  /** Tables for exactly these collections: name -> facts. Returns the channels that are gone. */
  show(collections) {
    const wanted = new Map(Object.entries(collections).map(([name, facts]) => [`${this.name}/${name}`, facts]));
    const added = [...wanted.keys()].filter((channel) => !this.tables.has(channel));
    const gone = [...this.tables.keys()].filter((channel) => !wanted.has(channel));
    added.forEach((channel) => this.#add(channel));
    gone.forEach((channel) => this.#remove(channel));
    for (const [channel, facts] of wanted) this.tables.get(channel).describe(facts);
    this.#teach();
    return gone;
  }

  /** A channel that may not be read any more. */
  leave(channel) {
    if (this.tables.has(channel)) this.#remove(channel);
  }

  paint(now) {
    for (const table of this.tables.values()) table.paint();
    this.#weather?.paint(this.#observations, now);
    this.#teach();
  }

  tick(now) {
    for (const table of this.tables.values()) table.tick(now);
    this.#weather?.paint(this.#observations, now);
  }

  get #observations() {
    return this.tables.get(`${this.name}/current`)?.items ?? new Map();
  }

  #add(channel) {
    const table = new Table(channel, (key, text) => this.#pick(channel, key, text));
    this.tables.set(channel, table);
    const after = [...this.#list.children].find((each) => each.dataset.channel > channel);
    this.#list.insertBefore(table.node, after ?? null);
  }

  #remove(channel) {
    this.tables.get(channel).node.remove();
    this.tables.delete(channel);
  }

  /** An empty store shows how to fill it; whether the lines stay open after that is up to the reader. */
  #teach() {
    const tables = [...this.tables.values()];
    const empty = this.state === "live" && tables.every((each) => each.known && !each.items.size);
    if (empty !== this.node.classList.contains("empty")) {
      this.node.classList.toggle("empty", empty);
      this.#terminal.open = empty;
    }
  }
}

function terminal(store) {
  const lines = linesFor(store);
  const code = element("code", {}, lines.join("\n"));
  return element("details", { class: "terminal", hidden: !lines.length },
    element("summary", {}, element("span", { class: "when-empty" }, "Nothing here yet. "), "Change it from a terminal"),
    element("pre", { tabindex: 0, "aria-label": "shell lines" }, code),
    element("p", { class: "lead" }, "The address of each bundled store is in what the server prints at its start."));
}
