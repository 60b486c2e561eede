/**
 * The page: what there is (GET /v1/stores, every few seconds), what is in it (a subscription per collection), and how
 * current both are. Messages go into the tables' items at once; one animation frame paints what they changed, and a
 * hidden page gets none, so that it only keeps its items current.
 */

import { byId, say } from "./dom.mjs";
import { Live } from "./live.mjs";
import { Store } from "./store.mjs";
import { age } from "./words.mjs";
import { Writer } from "./writer.mjs";

const LOOK = 5000; // ms between two looks at what there is
const LOOK_SOON = 1000; // while a write into something new is waited for
const STALE = 5000; // ms without a frame, while not connected, after which what is shown is called stale
const CLOCKS = 2000; // ms that the server's clock, told in whole seconds, may differ without being another one

const stores = new Map();
let looked = 0; // when it was last asked what there is
let looking = false;
let skew = 0; // ms that this clock is ahead of the server's
let frame = 0;
const reloaded = new Set(); // channels, of which the notice tells

const writer = new Writer((channel) => tableOf(channel) || look());
const socket = new URL("/v1/ws", location.href.replace(/^http/, "ws"));
const live = new Live(socket.href, {
  state: showConnection,
  items: (channel, items, reason) => {
    tableOf(channel)?.replace(items);
    writer.loaded(channel, items);
    if (reason === "rights") notify(`What you may read of ${channel} has changed.`);
    else if (reason) sayReloaded(channel);
    paintSoon();
  },
  event: ({ channel, key, op, value, version, time }) => {
    const table = tableOf(channel);
    if (op === "put") table?.put(key, value, time * 1000 + skew, version);
    else table?.delete(key);
    writer.saw(channel, key, version);
    paintSoon();
  },
  source: (source) => stores.get(source.store)?.source(source),
  failed: (channel, error) => {
    const table = channel && tableOf(channel);
    if (table) table.fail(error);
    else notify(`The server refused a message of this page: ${error.message}`);
  },
  left: (channel) => {
    stores.get(channel.split("/")[0])?.leave(channel);
    notify(`You may not read ${channel} any more.`);
    look();
  },
  unknown: signIn,
});

/** And come back. */
function signIn() {
  location.assign(`/sign-in?next=${encodeURIComponent(location.pathname + location.search)}`);
}

function tableOf(channel) {
  return stores.get(channel.split("/")[0])?.tables.get(channel);
}

// what there is ---------------------------------------------------------------------------------------------------

async function look() {
  if (looking) return;
  looking = true;
  looked = Date.now();
  try {
    const response = await fetch("/v1/stores");
    if (response.status === 401) return signIn();
    const ahead = Date.now() - Date.parse(response.headers.get("Date"));
    skew = Math.abs(ahead) > CLOCKS ? ahead : 0;
    if (response.ok) showStores((await response.json()).stores);
  } catch {
    // the connection's state says it already
  } finally {
    looking = false;
  }
}

function showStores(found) {
  for (const name of stores.keys()) if (!(name in found)) removeStore(name);
  for (const [name, store] of Object.entries(found)) {
    if (!stores.has(name)) addStore(name);
    stores.get(name).source(store);
    stores.get(name).show(store.collections).forEach((channel) => live.unsubscribe(channel));
    stores.get(name).tables.forEach((_, channel) => live.subscribe(channel));
  }
  byId("loading").hidden = stores.size > 0;
  say(byId("loading"), "There is nothing here that you may read.");
  writer.offer(new Map(Object.entries(found).map(([name, { collections }]) => [name, Object.keys(collections)])));
}

function addStore(name) {
  const store = new Store(name, (channel, key, text) => writer.fill(channel, key, text));
  stores.set(name, store);
  byId("chips").append(store.chip);
  byId("items").append(store.node);
}

/** Nothing of it may be read any more. */
function removeStore(name) {
  const { tables, chip, node } = stores.get(name);
  tables.forEach((_, channel) => live.unsubscribe(channel));
  chip.remove();
  node.remove();
  stores.delete(name);
}

// how current it is -----------------------------------------------------------------------------------------------

function showConnection() {
  const now = Date.now();
  const silent = now - live.heardAt;
  const away = live.state === "reconnecting" || live.state === "refused";
  const stale = away && (silent > STALE || live.state === "refused");
  const state = stale && live.state !== "refused" ? "stale" : live.state;
  byId("pill").dataset.state = state;
  say(byId("state"), { "catching up": "catching up", refused: `refused: ${live.refusal}` }[state] ?? state);
  say(byId("since"), away ? sinceText(silent, live.retryAt - now, stale) : "");
  document.body.classList.toggle("stale", stale);
  stores.forEach((store) => store.reach(!stale));
}

function sinceText(silent, pause, stale) {
  const heard = stale && `last heard ${age(silent / 1000)} ago`;
  const next = live.state !== "refused" && (pause > 0 ? `next try in ${Math.ceil(pause / 1000)} s` : "trying now");
  return [heard, next].filter(Boolean).join(", ");
}

/** Once for all channels that one break concerns. */
function sayReloaded(channel) {
  reloaded.add(channel);
  notify(`Loaded anew, as the history since this page last heard was gone: ${[...reloaded].join(", ")}.`);
}

function notify(text) {
  say(byId("notice-text"), text);
  byId("notice").hidden = false;
}

// painting --------------------------------------------------------------------------------------------------------

function paintSoon() {
  frame ||= requestAnimationFrame(() => {
    frame = 0;
    stores.forEach((store) => store.paint(Date.now()));
  });
}

function tick() {
  const now = Date.now();
  showConnection();
  if (document.hidden) return;
  stores.forEach((store) => store.tick(now));
  if (live.state === "live" && now - looked > (writer.waiting ? LOOK_SOON : LOOK)) look();
}

byId("notice-close").addEventListener("click", () => {
  byId("notice").hidden = true;
  reloaded.clear();
});
setInterval(tick, 1000);
live.open();
look();
