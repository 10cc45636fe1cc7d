/**
 * The page's connection to the node's stream (/v1/stream). Keeps it open, reconnects, and requests
 * missed messages; a message that does not fit makes that subscription begin anew from a snapshot.
 *
 * Nothing is queued here: a message is applied when it comes, and the node merges what a slow reader
 * has not taken yet.
 */

import { BookFault } from "./book.js";
import { Cell } from "./state.js";

/**
 * @typedef {object} Message
 * @property {string} event
 * @property {string} [stream]
 * @property {string} [id]
 * @property {string} [epoch]
 * @property {number} [sequence]
 * @property {number | null} [previous]
 * @property {string} [code]
 * @property {string} [detail]
 */

/** @typedef {"connecting" | "live" | "away"} Connection */

const FIRST_DELAY = 250; // ms before the first attempt to come back; doubles
const LAST_DELAY = 4000;
const AGAIN = 150; // ms
const PING = 4000;
const SILENCE = 10_000; // without any message for so long, the connection is given up

class Subscription {
  /**
   * @param {string} id
   * @param {Record<string, unknown>} request
   * @param {(message: any) => void} take
   * @param {(detail: string) => void} refused
   */
  constructor(id, request, take, refused) {
    this.id = id;
    this.request = request;
    this.take = take;
    this.refused = refused;
    this.stream = "";
    this.epoch = "";
    this.sequence = /** @type {number | null} */ (null);
    this.live = false;
  }

  message() {
    const resume =
      this.sequence === null ? {} : { resume: { epoch: this.epoch, sequence: this.sequence } };
    return { op: "subscribe", id: this.id, ...this.request, ...resume };
  }
}

export class Stream {
  /** @type {Map<string, Subscription>} */
  #byId = new Map();
  /** @type {Map<string, Subscription>} */
  #byStream = new Map();
  /** @type {WebSocket | null} */
  #socket = null;
  #ready = false;
  #next = 1;
  #delay = FIRST_DELAY;
  #heard = 0;
  /** @type {number | undefined} */
  #timer;
  #closed = false;

  /** @param {() => string | null} credentials */
  constructor(credentials) {
    this.credentials = credentials;
    /** @type {Cell<Connection>} */
    this.connection = new Cell(/** @type {Connection} */ ("connecting"));
    /** Faults found and mended since the page was opened. */
    this.faults = new Cell(0);
    /** Why the node refuses the credentials. */
    this.denied = new Cell(/** @type {string | null} */ (null));
    this.messages = 0;
    setInterval(() => this.#watch(), PING);
  }

  /** When the last message came, ms of `performance.now()`. */
  get heard() {
    return this.#heard;
  }

  open() {
    this.#closed = false;
    const scheme = location.protocol === "https:" ? "wss" : "ws";
    const socket = new WebSocket(`${scheme}://${location.host}/v1/stream`);
    this.#socket = socket;
    socket.onopen = () => this.#opened(socket);
    socket.onmessage = (event) => {
      if (socket === this.#socket) this.#message(JSON.parse(event.data));
    };
    socket.onclose = () => {
      if (socket === this.#socket) this.#lost();
    };
  }

  /** Close, and open again with other credentials. */
  reopen() {
    this.close();
    for (const subscription of this.#byId.values()) subscription.sequence = null;
    this.denied.value = null;
    this.connection.value = "connecting";
    this.open();
  }

  close() {
    this.#closed = true;
    clearTimeout(this.#timer);
    const socket = this.#socket;
    this.#forget();
    if (socket?.readyState === WebSocket.CONNECTING) {
      // Browsers report a connection that is closed before it is open as an error.
      socket.onopen = () => socket.close();
    } else {
      socket?.close();
    }
  }

  /**
   * Follow a stream. `take` gets each message; when it throws, the stream begins anew.
   * @param {Record<string, unknown>} request channel, market and so on
   * @param {(message: any) => void} take
   * @param {(detail: string) => void} [refused]
   * @returns {() => void} ends it
   */
  subscribe(request, take, refused = () => {}) {
    const subscription = new Subscription(String(this.#next++), request, take, refused);
    this.#byId.set(subscription.id, subscription);
    if (this.#ready) this.#send(subscription.message());
    return () => {
      this.#byId.delete(subscription.id);
      this.#end(subscription);
    };
  }

  /** @param {Subscription} subscription */
  #end(subscription) {
    if (subscription.stream === "" || this.#byStream.get(subscription.stream) !== subscription) return;
    this.#byStream.delete(subscription.stream);
    if (this.#ready) this.#send({ op: "unsubscribe", stream: subscription.stream });
  }

  #forget() {
    this.#socket = null;
    this.#ready = false;
    this.#byStream.clear();
    for (const subscription of this.#byId.values()) subscription.live = false;
  }

  #lost() {
    this.#forget();
    if (this.#closed) return;
    this.connection.value = "away";
    const spread = this.#delay * (0.75 + Math.random() / 2);
    this.#delay = Math.min(this.#delay * 2, LAST_DELAY);
    this.#timer = setTimeout(() => this.open(), spread);
  }

  #watch() {
    if (this.#socket === null) return;
    if (this.#socket.readyState === WebSocket.OPEN) this.#send({ op: "ping" });
    if (this.#heard > 0 && performance.now() - this.#heard > SILENCE) {
      const socket = this.#socket;
      this.#heard = performance.now();
      this.#lost();
      socket.close();
    }
  }

  /** @param {WebSocket} socket */
  #opened(socket) {
    if (socket !== this.#socket) return;
    this.#heard = performance.now();
    this.#delay = FIRST_DELAY;
    const credentials = this.credentials();
    if (credentials === null) {
      this.#begin();
      return;
    }
    const colon = credentials.indexOf(":");
    const [key, secret] = [credentials.slice(0, colon), credentials.slice(colon + 1)];
    this.#send({ op: "auth", id: "auth", key, secret });
  }

  #begin() {
    this.#ready = true;
    this.connection.value = "live";
    for (const subscription of this.#byId.values()) this.#send(subscription.message());
  }

  /** @param {object} message */
  #send(message) {
    if (this.#socket?.readyState === WebSocket.OPEN) this.#socket.send(JSON.stringify(message));
  }

  /** @param {Message} message */
  #message(message) {
    this.#heard = performance.now();
    this.messages++;
    switch (message.event) {
      case "authenticated":
        this.#begin();
        break;
      case "subscribed":
        this.#subscribed(message);
        break;
      case "error":
        this.#error(message);
        break;
      case "unsubscribed":
      case "pong":
        break;
      default:
        this.#deliver(message);
    }
  }

  /** @param {Message} message */
  #subscribed(message) {
    const subscription = this.#byId.get(message.id ?? "");
    if (subscription === undefined) {
      // It was ended before the answer came.
      this.#send({ op: "unsubscribe", stream: message.stream });
      return;
    }
    subscription.stream = message.stream ?? "";
    subscription.live = true;
    this.#byStream.set(subscription.stream, subscription);
  }

  /** @param {Message} message */
  #error(message) {
    const detail = `${message.detail} (${message.code})`;
    if (message.id === "auth") {
      this.denied.value = detail;
      return;
    }
    const ended = message.stream ? this.#byStream.get(message.stream) : undefined;
    if (ended !== undefined) {
      // The stream itself ended, e.g. because the book became too large.
      this.#byStream.delete(ended.stream);
      ended.refused(detail);
      return;
    }
    const refused = this.#byId.get(message.id ?? "");
    if (message.code === "already_subscribed" && refused !== undefined) {
      // A view that was just left had it; its end is on the way.
      setTimeout(() => {
        if (this.#ready && this.#byId.has(refused.id)) this.#send(refused.message());
      }, AGAIN);
      return;
    }
    refused?.refused(detail);
  }

  /** @param {Message} message */
  #deliver(message) {
    const subscription = this.#byStream.get(message.stream ?? "");
    if (subscription === undefined) return;
    const previous = message.previous ?? null;
    try {
      if (previous !== null && previous !== subscription.sequence) {
        throw new RangeError(`message ${previous} is missing`);
      }
      subscription.take(message);
    } catch (error) {
      // A fault of the page itself is reported and changes nothing; what does not fit is requested again.
      if (!(error instanceof RangeError || error instanceof BookFault)) reportError(error);
      else {
        this.#again(subscription);
        return;
      }
    }
    subscription.epoch = message.epoch ?? "";
    subscription.sequence = message.sequence ?? null;
  }

  /**
   * Begin a stream anew from a snapshot.
   * @param {Subscription} subscription
   */
  #again(subscription) {
    this.#end(subscription);
    subscription.sequence = null;
    subscription.live = false;
    this.#send(subscription.message());
    this.faults.value++;
  }
}
