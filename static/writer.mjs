/**
 * The field group that writes one key, and the answer: what the server said, and when this page itself saw the write
 * come back as an event. The page shows nothing of its own accord: what the table says, the store has said.
 */

import { byId, element, say } from "./dom.mjs";
import { duration } from "./words.mjs";

/** One write under way, from Send until the page saw it. */
class Write {
  sentAt = performance.now();
  version = null; // as answered
  seen = []; // [version, ms since Send]: the event may be here before the answer
  seenAfter = null;

  constructor(channel, key) {
    Object.assign(this, { channel, key });
  }

  get elapsed() {
    return performance.now() - this.sentAt;
  }

  /** An event tells of this write if it is at or above the answer's version; versions are ordered as text. */
  saw(version) {
    this.seen.push([version, this.elapsed]);
    this.settle();
  }

  settle() {
    if (this.version === null || this.seenAfter !== null) return;
    const found = this.seen.find(([version]) => version >= this.version);
    if (found) this.seenAfter = found[1];
  }
}

export class Writer {
  #form = byId("write");
  #answer = byId("answer");
  #write = null;
  #written;

  /** `written(channel)` is called after each write that the server took. */
  constructor(written) {
    this.#written = written;
    this.#form.addEventListener("submit", (event) => this.#submit(event));
  }

  /** Offer these stores, and the collections of the one that is named. */
  offer(stores) {
    this.#options("stores", [...stores.keys()]);
    this.#options("collections", stores.get(this.#field("store").value) ?? []);
  }

  /** Put an item into the fields. */
  fill(channel, key, text) {
    const [store, collection] = channel.split("/");
    const fields = { store, collection, key, value: text };
    for (const [name, value] of Object.entries(fields)) this.#field(name).value = value;
    this.#form.scrollIntoView({ block: "nearest" });
    this.#field("value").focus({ preventScroll: true });
  }

  /** An event arrived on this page. */
  saw(channel, key, version) {
    if (this.#write?.channel === channel && this.#write.key === key && this.#write.seenAfter === null) {
      this.#write.saw(version);
      this.#report();
    }
  }

  /** A snapshot arrived: of a channel that this page did not know, it is how the write is seen. */
  loaded(channel, items) {
    if (this.#write?.version && items.has(this.#write.key)) this.saw(channel, this.#write.key, this.#write.version);
  }

  get waiting() {
    return Boolean(this.#write?.version) && this.#write.seenAfter === null;
  }

  #field(name) {
    return this.#form.elements[name];
  }

  #options(id, names) {
    const list = byId(id);
    if ([...list.children].map((each) => each.value).join() !== names.join()) {
      list.replaceChildren(...names.map((value) => element("option", { value })));
    }
  }

  async #submit(event) {
    event.preventDefault();
    const deleting = event.submitter?.value === "delete";
    const [store, collection, key] = ["store", "collection", "key"].map((name) => this.#field(name).value.trim());
    const write = (this.#write = new Write(`${store}/${collection}`, key));
    this.#show("", "Sending …");
    const path = [store, collection, key].map(encodeURIComponent).join("/");
    const request = deleting
      ? { method: "DELETE" }
      : { method: "PUT", body: this.#field("value").value, headers: { "Content-Type": "application/json" } };
    await this.#send(write, `/v1/${path}`, request, deleting ? "Deleted" : "Written");
  }

  async #send(write, path, request, done) {
    try {
      const response = await fetch(path, request);
      const body = await response.json();
      if (this.#write !== write) return; // another one was sent meanwhile
      if (response.ok) this.#accepted(write, body.version, done);
      else this.#refused(body.error, request.body);
    } catch {
      if (this.#write === write) this.#refused({ code: "unreachable", message: "the server does not answer" });
    }
  }

  #accepted(write, version, done) {
    Object.assign(write, { version, done, answeredAfter: write.elapsed });
    write.settle();
    this.#report();
    this.#written(write.channel);
  }

  #report() {
    const { version, done, answeredAfter, seenAfter } = this.#write;
    if (version === null) return;
    const seen = seenAfter === null
      ? "This page has not seen it yet."
      : `This page saw it ${duration(seenAfter / 1000)} after you sent it.`;
    this.#show("done", `${done}, answered in ${duration(answeredAfter / 1000)}.`, seen, `version ${version}`);
  }

  #refused(error, body) {
    this.#write = null;
    const quotes = body !== undefined && !isJson(body) ? 'a text goes in double quotes: "like this"' : "";
    const hint = error.code === "unauthorized" ? "sign in again, in another tab, then send it" : error.hint ?? quotes;
    this.#show("failed", error.message, hint, error.code);
  }

  #show(kind, message, more = "", code = "") {
    this.#answer.className = kind;
    const lines = [["strong", message], ["span", more], ["code", code]].filter(([, text]) => text);
    this.#answer.replaceChildren(...lines.map(([tag, text]) => element(tag, {}, text)));
  }
}

function isJson(text) {
  try {
    JSON.parse(text);
    return true;
  } catch {
    return false;
  }
}
