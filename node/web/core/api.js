/** Requests to the node's REST API. */

/** The node refused: problem details (RFC 9457). */
export class Refused extends Error {
  /** @param {{status?: number, code?: string, detail?: string, pointer?: string}} problem */
  constructor(problem) {
    super(problem.detail ?? "the node refused the request");
    this.status = problem.status ?? 0;
    this.code = problem.code ?? "";
    this.pointer = problem.pointer ?? "";
  }
}

/** There is no answer: whether the request arrived is not known. */
export class Unanswered extends Error {}

const TIMEOUT = 35_000; // a little longer than the node's own timeout

/** @typedef {Record<string, string | number | boolean | null | undefined>} Parameters */

export class Api {
  /**
   * @param {() => string | null} credentials KEY:SECRET, or null without a key
   */
  constructor(credentials) {
    this.credentials = credentials;
    /** Id of the node that is meant; another one at this address then refuses. */
    this.nodeId = "";
    /** Milliseconds that the node's clock is ahead of this one; null before the first answer. */
    this.clockOffset = /** @type {number | null} */ (null);
  }

  /**
   * @param {string} path
   * @param {Parameters} [parameters]
   * @returns {Promise<any>}
   */
  get(path, parameters) {
    return this.send("GET", path, parameters);
  }

  /**
   * @param {string} path
   * @param {unknown} body
   * @param {Parameters} [parameters]
   * @returns {Promise<any>}
   */
  post(path, body, parameters) {
    return this.send("POST", path, parameters, body);
  }

  /**
   * @param {"GET" | "POST" | "PATCH" | "DELETE"} method
   * @param {string} path
   * @param {Parameters} [parameters]
   * @param {unknown} [body]
   * @returns {Promise<any>}
   * @throws {Refused | Unanswered}
   */
  async send(method, path, parameters = {}, body = undefined) {
    const query = new URLSearchParams();
    for (const [name, value] of Object.entries(parameters)) {
      if (value !== undefined && value !== null) query.set(name, String(value));
    }
    const url = query.size > 0 ? `${path}?${query}` : path;
    /** @type {Record<string, string>} */
    const headers = {};
    const credentials = this.credentials();
    if (credentials !== null) headers["Authorization"] = `Bearer ${credentials}`;
    if (this.nodeId !== "") headers["X-Exchange-Node"] = this.nodeId;
    if (body !== undefined) headers["Content-Type"] = "application/json";
    let response, text;
    const started = Date.now();
    try {
      response = await fetch(url, {
        method,
        headers,
        body: body === undefined ? null : JSON.stringify(body),
        credentials: "omit",
        cache: "no-store",
        signal: AbortSignal.timeout(TIMEOUT),
      });
      text = await response.text();
    } catch (error) {
      throw new Unanswered(error instanceof Error ? error.message : String(error));
    }
    this.#noteClock(response.headers.get("Date"), started);
    return this.#read(response.status, text);
  }

  /** @param {number} status @param {string} text */
  #read(status, text) {
    let value;
    try {
      value = JSON.parse(text);
    } catch {
      throw new Unanswered(`the answer (HTTP ${status}) is not JSON`);
    }
    if (status >= 400) {
      // 504: the node is still working on it, the outcome is not known yet.
      if (status === 504) throw new Unanswered(value.detail ?? "no answer in time");
      throw new Refused({ status, ...value });
    }
    return value;
  }

  /** @param {string | null} header @param {number} started */
  #noteClock(header, started) {
    const said = header === null ? NaN : Date.parse(header);
    // The header has whole seconds: it was true some time between then and a second later.
    if (!Number.isNaN(said)) this.clockOffset = said + 500 - (started + Date.now()) / 2;
  }
}

/**
 * A sentence for people.
 * @param {unknown} error
 */
export function explain(error) {
  if (error instanceof Refused) return error.code ? `${error.message} (${error.code})` : error.message;
  if (error instanceof Unanswered) return `no answer from the node: ${error.message}`;
  return error instanceof Error ? error.message : String(error);
}
