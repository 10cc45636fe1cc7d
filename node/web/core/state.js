/** Values that views follow, and drawing at most once a frame. */

/** @template T */
export class Cell {
  /** @type {T} */
  #value;
  /** @type {Set<(value: T) => void>} */
  #followers = new Set();

  /** @param {T} value */
  constructor(value) {
    this.#value = value;
  }

  get value() {
    return this.#value;
  }

  set value(value) {
    this.#value = value;
    this.changed();
  }

  /** Call the followers: the value was changed in place. */
  changed() {
    for (const follower of [...this.#followers]) follower(this.#value);
  }

  /**
   * Call at every change, and once now.
   * @param {(value: T) => void} follower
   * @returns {() => void} ends it
   */
  follow(follower) {
    this.#followers.add(follower);
    follower(this.#value);
    return () => this.#followers.delete(follower);
  }
}

/**
 * Collects the clean-up of a view.
 */
export class Scope {
  /** @type {(() => void)[]} */
  #ends = [];
  ended = false;

  /** @param {() => void} end */
  add(end) {
    if (this.ended) end();
    else this.#ends.push(end);
  }

  end() {
    this.ended = true;
    for (const end of this.#ends.splice(0).reverse()) end();
  }

  /**
   * Run now and then again and again, each time when the last run is over.
   * @param {number} ms
   * @param {() => Promise<void> | void} work
   * @returns {() => void} runs it now
   */
  every(ms, work) {
    /** @type {number | undefined} */
    let timer;
    let running = false;
    const run = async () => {
      if (running || this.ended) return;
      running = true;
      clearTimeout(timer);
      try {
        await work();
      } finally {
        running = false;
        if (!this.ended) timer = setTimeout(run, ms);
      }
    };
    this.add(() => clearTimeout(timer));
    void run();
    return () => void run();
  }

  /**
   * @param {EventTarget} target
   * @param {string} type
   * @param {(event: any) => void} listener
   */
  listen(target, type, listener) {
    target.addEventListener(type, listener);
    this.add(() => target.removeEventListener(type, listener));
  }
}


/** @type {Set<() => void>} */
const waiting = new Set();

function drawAll() {
  const works = [...waiting];
  waiting.clear();
  for (const work of works) work();
}

/**
 * Make a function that schedules `draw` before the next frame; two calls draw once.
 * @param {() => void} draw
 */
export function drawer(draw) {
  return () => {
    if (waiting.size === 0) requestAnimationFrame(drawAll);
    waiting.add(draw);
  };
}
