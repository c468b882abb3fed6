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
  /** Number of rows that the mesh or the plugin has left out. */
  missed = 0;
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

  pause() {
    this.paused = true;
  }

  resume() {
    this.paused = false;
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
    this.missed = 0;
    this.overflowed = 0;
  }

  /** All rows that are kept, those that wait included, the latest first. */
  * latest() {
    for (const rows of [this.#waiting, this.rows]) {
      for (let index = rows.length - 1; index >= 0; index -= 1) yield rows[index];
    }
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
 * A stream begins with the last rows, which the page may have. `begin` is called when it is opened, with
 * the keys of the rows that the page has.
 */
export class Replay {
  #known = new Set();
  #left = 0;
  #had = false;
  /** Whether rows may be missing between those of before and those of now. */
  gap = false;

  begin(keys, size) {
    this.#known = new Set(keys);
    this.#had = this.#known.size > 0;
    this.#left = size;
    this.gap = false;
  }

  /** Whether the page has the row already. `gap` is set for a row that does not follow what it has. */
  has(key) {
    this.gap = false;
    if (!this.#left) return false;
    this.#left -= 1;
    if (this.#known.has(key)) {
      this.#had = false;
      return true;
    }
    this.gap = this.#had;
    this.#had = false;
    if (!this.#left) this.#known = new Set();
    return false;
  }
}
