/**
 * The connection: one WebSocket for all channels, for as long as the page is open. It speaks the protocol
 * (docs/protocol.md) and knows nothing of the page. What it keeps per channel is the cursor: after a break it
 * subscribes from there, so that nothing is missed and no snapshot is sent twice.
 *
 * `listener` is told: state(), items(channel, Map, reason), event(event), source(source), failed(channel, error),
 * left(channel) where it may not be read any more, and unknown() where the server does not know (any more) who asks.
 */

import { number, parse } from "./json.mjs";

const QUIET = 10_000; // ms without a frame, after which the server is asked whether it is there
const ANSWER = 6_000; // ms that it has to answer, or to welcome us
const SETTLED = 5_000; // ms that a connection has to last for the back-off to start anew
const FIRST_PAUSE = 200;
const LONGEST_PAUSE = 15_000;
const RESTART = 1012; // "come back at once"
const UNKNOWN = 4401; // "say who you are"
const REFUSED = 4500; // from here to 4999: "do not come back"

// Failures of a subscription that pass by themselves; after any other it is not asked for again on this connection.
const PASSING = new Set(["store_down", "broker_down", "unavailable", "draining", "unknown_channel", "too_many"]);

export class Live {
  state = "connecting"; // connecting | catching up | live | reconnecting | refused
  heardAt = Date.now(); // of the last frame
  retryAt = 0; // while reconnecting
  refusal = "";
  #url;
  #listener;
  #socket = null;
  #openedAt = 0;
  #askedAt = 0; // since when we wait for a sign of life; 0: we do not
  #failures = 0;
  #timer = 0;
  #serial = 0;
  #subscriptions = new Map(); // by channel
  #unanswered = new Set(); // of those that this connection began with

  constructor(url, listener) {
    this.#url = url;
    this.#listener = listener;
  }

  open() {
    setInterval(() => this.#watch(), 1000);
    addEventListener("online", () => this.#wake());
    document.addEventListener("visibilitychange", () => document.hidden || this.#wake());
    this.#connect();
  }

  /** Also of a channel that is subscribed already, or that failed a while ago and may not fail now. */
  subscribe(channel) {
    let subscription = this.#subscriptions.get(channel);
    if (!subscription) {
      subscription = { channel, id: 0, cursor: undefined, parts: null, givenUp: false };
      this.#subscriptions.set(channel, subscription);
    }
    if (this.#welcomed && !subscription.id && !subscription.givenUp) this.#join(subscription);
  }

  unsubscribe(channel) {
    const subscription = this.#subscriptions.get(channel);
    this.#subscriptions.delete(channel);
    if (this.#welcomed && subscription?.id) this.#send({ type: "unsubscribe", id: subscription.id });
  }

  // connection ----------------------------------------------------------------------------------------------------

  get #welcomed() {
    return this.state === "live" || this.state === "catching up";
  }

  #connect() {
    clearTimeout(this.#timer);
    this.#openedAt = this.#askedAt = Date.now();
    this.retryAt = 0;
    const socket = new WebSocket(this.#url, "realtime.v1.json");
    socket.onmessage = (frame) => this.#receive(frame.data);
    socket.onclose = (close) => this.#closed(close.code, close.reason);
    this.#socket = socket;
    this.#listener.state();
  }

  /** Once a second, or as seldom as the browser lets a hidden page. */
  #watch() {
    const now = Date.now();
    if (this.#askedAt && now - this.#askedAt > ANSWER) this.#closed(0, "");
    else if (this.#welcomed && !this.#askedAt && now - this.heardAt > QUIET) this.#ping();
  }

  #wake() {
    if (this.#welcomed) this.#ping();
    else if (this.retryAt) this.#connect();
  }

  #ping() {
    this.#askedAt = Date.now();
    this.#send({ type: "ping" });
  }

  #closed(code, reason) {
    this.#abandon();
    if (code >= REFUSED && code < 5000) {
      this.refusal = reason || `close code ${code}`;
      return this.#change("refused");
    }
    if (code === UNKNOWN) this.#listener.unknown();
    if (Date.now() - this.#openedAt > SETTLED) this.#failures = 0;
    const longest = Math.min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** this.#failures++);
    const pause = code === RESTART ? 0 : Math.random() * longest;
    this.retryAt = Date.now() + pause;
    this.#timer = setTimeout(() => this.#connect(), pause);
    this.#change("reconnecting");
  }

  /** A socket that went silent may take minutes to say that it is closed: what it says is not listened to any more. */
  #abandon() {
    this.#socket.onmessage = this.#socket.onclose = null;
    this.#socket.close();
    this.#askedAt = 0;
    this.#unanswered.clear();
    for (const each of this.#subscriptions.values()) Object.assign(each, { id: 0, parts: null, givenUp: false });
  }

  #change(state) {
    this.state = state;
    this.#listener.state();
  }

  #send(message) {
    this.#socket.send(JSON.stringify(message));
  }

  // messages ------------------------------------------------------------------------------------------------------

  #receive(frame) {
    this.heardAt = Date.now();
    this.#askedAt = 0;
    const message = parse(frame);
    const take = this.#messages[message.type];
    if (take) take(message); // a type that a newer server knows is none of our business
  }

  #messages = {
    welcome: () => this.#begin(),
    subscribed: (message) => this.#subscribed(message),
    event: (message) => this.#event(message),
    reset: (message) => this.#state(this.#subscriptions.get(message.channel), message),
    cursor: (message) => this.#move(this.#subscriptions.get(message.channel), message.cursor),
    leave: (message) => this.#leave(message.channel),
    source: (message) => this.#listener.source({ ...message, lag: number(message.lag) }),
    error: (message) => this.#failed(message),
  };

  #begin() {
    this.#change("catching up");
    for (const subscription of this.#subscriptions.values()) {
      this.#join(subscription);
      this.#unanswered.add(subscription.id);
    }
    this.#answered(0);
  }

  #join(subscription) {
    const { channel, cursor } = subscription;
    subscription.id = ++this.#serial;
    this.#send({ type: "subscribe", id: subscription.id, channel, cursor });
  }

  #answered(id) {
    this.#unanswered.delete(id);
    if (this.state === "catching up" && !this.#unanswered.size) this.#change("live");
  }

  #subscribed(message) {
    const subscription = this.#byId(message.id);
    if (message.items === null) this.#move(subscription, message.cursor);
    else this.#state(subscription, message);
    if (!message.more) this.#answered(message.id);
  }

  /** The whole state of a channel, perhaps in parts. */
  #state(subscription, message) {
    if (!subscription) return;
    subscription.parts ??= new Map();
    for (const [key, value] of Object.entries(message.items)) subscription.parts.set(key, value);
    if (message.more) return;
    const items = subscription.parts;
    subscription.parts = null;
    this.#move(subscription, message.cursor);
    this.#listener.items(message.channel, items, message.reason ?? "");
  }

  #event(message) {
    const subscription = this.#subscriptions.get(message.channel);
    if (!subscription) return;
    this.#move(subscription, message.cursor);
    this.#listener.event({ ...message, time: number(message.time) });
  }

  #move(subscription, cursor) {
    if (subscription) subscription.cursor = cursor;
  }

  /** What may not be read any more; the server has ended the subscription. */
  #leave(channel) {
    const subscription = this.#subscriptions.get(channel);
    this.#subscriptions.delete(channel);
    this.#listener.left(channel);
    if (subscription) this.#answered(subscription.id);
  }

  #failed(message) {
    if (message.code === "unauthorized") this.#listener.unknown();
    const subscription = this.#byId(message.id);
    if (!subscription) return this.#listener.failed(null, message);
    subscription.id = 0;
    if (message.code === "bad_cursor" && subscription.cursor) {
      subscription.cursor = undefined;
      this.#join(subscription);
      return this.#answered(message.id);
    }
    subscription.givenUp = !PASSING.has(message.code);
    this.#send({ type: "unsubscribe", id: message.id }); // it may have failed after it was answered
    this.#listener.failed(subscription.channel, message);
    return this.#answered(message.id);
  }

  #byId(id) {
    return [...this.#subscriptions.values()].find((each) => each.id === id);
  }
}
