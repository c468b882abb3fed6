// Rows of what comes and comes: log lines, events, calls. Pure.

const KEPT = 5000; // Rows.
const MAX_WEIGHT = 16_000_000; // Characters, so that few but long rows are bounded as well.

/**
 * The latest rows, oldest first. While it is paused, new rows wait beside those that are shown, as
 * bounded as they are.
 *
 * Rows get an `id` that grows by one with each.
 */
export class Feed {
  rows = [];
  paused = false;
  /** Number of rows that came while it was paused and were more than are kept. */
  overflowed = 0;
  #waiting = [];
  #nextId = 1;
  #weight = 0;
  #waitingWeight = 0;

  constructor({ limit = KEPT, maxWeight = MAX_WEIGHT, weigh = () => 0 } = {}) {
    Object.assign(this, { limit, maxWeight, weigh });
  }

  /** Number of rows that came while it was paused. */
  get waiting() {
    return this.#waiting.length;
  }

  add(row) {
    row.id = this.#nextId++;
    if (this.paused) {
      this.#waiting.push(row);
      this.#waitingWeight += this.weigh(row);
      const removed = this.#excess(this.#waiting, this.#waitingWeight);
      for (const each of this.#waiting.splice(0, removed)) this.#waitingWeight -= this.weigh(each);
      this.overflowed += removed;
    } else {
      this.rows.push(row);
      this.#weight += this.weigh(row);
      this.#trim();
    }
    return row;
  }

  /** Adds to a row of its own that tells how many rows are missing here, and why. */
  addMissed(number, why) {
    const { last } = this;
    if (last?.marker !== why) this.add({ marker: why, number, version: 0 });
    else Object.assign(last, { number: last.number + number, version: last.version + 1 });
  }

  pause() {
    this.paused = true;
  }

  resume() {
    this.paused = false;
    // What is kept has no gap then: it is what has waited.
    this.overflowed = 0;
    for (const row of this.#waiting) this.rows.push(row);
    this.#weight += this.#waitingWeight;
    this.#waiting = [];
    this.#waitingWeight = 0;
    this.#trim();
  }

  clear() {
    this.rows = [];
    this.#waiting = [];
    this.#weight = 0;
    this.#waitingWeight = 0;
    this.overflowed = 0;
  }

  /** The latest row, one that waits included; undefined if there is none. */
  get last() {
    return this.#waiting.at(-1) ?? this.rows.at(-1);
  }

  #trim() {
    const removed = this.#excess(this.rows, this.#weight);
    for (const each of this.rows.splice(0, removed)) this.#weight -= this.weigh(each);
  }

  // Removed by an eighth at a time, since an array moves all that stays.
  #excess(rows, weight) {
    let removed = rows.length > this.limit * 1.125 ? rows.length - this.limit : 0;
    if (weight <= this.maxWeight) return removed;
    let rest = weight;
    for (let index = 0; index < removed; index += 1) rest -= this.weigh(rows[index]);
    while (rest > this.maxWeight && removed < rows.length - 1) {
      rest -= this.weigh(rows[removed]);
      removed += 1;
    }
    return removed;
  }
}

/** The last `size` rows that match, and how many match in all. */
export function lastMatching(rows, matches, size) {
  const found = rows.filter(matches);
  return { shown: found.slice(-size), total: found.length };
}

/**
 * Tells what a stream that was opened again repeats from what is new.
 *
 * A stream begins with the last rows, which the page may have. Rows of one source come in their order (a time or
 * a number), so one that is not after the last is known. Only so many rows after the opening are compared, since
 * clocks may be set back.
 */
export class Replay {
  #last = new Map();
  #before = new Map(); // What was the last when the stream was opened: rows may have the same time.
  #left = 0;
  #had = false;

  /** The stream is opened, and begins with at most `size` rows of the past. */
  begin(size) {
    this.#left = size;
    this.#before = new Map(this.#last);
    this.#had = this.#last.size > 0;
  }

  /** What it knows is of another mesh, or of other filters. */
  clear() {
    this.#last.clear();
    this.#before.clear();
    this.#had = false;
  }

  /** Returns `known` if the page has the row, `gap` if rows before it may be missing, else `new`. */
  check(source, order) {
    const known = this.#left > 0 && order <= this.#before.get(source);
    const gap = this.#had && !known;
    this.#had = false; // The first row tells.
    this.#left = Math.max(0, this.#left - 1);
    if (known) return 'known';
    this.#last.set(source, order);
    return gap ? 'gap' : 'new';
  }
}
