// The history of the calls that the mesh counts, for charts and the table. Pure.
//
// Each message of the `calls` topic is one sample. Series share one ring of times, so that they can be added up.

const KEPT = 900; // Samples.
const MAX_SERIES = 400; // By plugin and method; those that were called longest ago are left out.

const VALUES = ['rate', 'errorRate', 'inFlight', 'p50', 'p95', 'p99'];
export const QUANTILES = ['p50', 'p95', 'p99'];

const sum = (numbers) => numbers.reduce((total, each) => total + each, 0);

/** Rows with the objects of before where they are the same, so that they are not rendered again. */
export function reuse(before, rows) {
  const known = new Map(before.map((row) => [row.key, row]));
  return rows.map((row) => {
    const old = known.get(row.key);
    return old && JSON.stringify(old) === JSON.stringify(row) ? old : row;
  });
}

/** What a row of the topic is about, as a key. One without a method is the sum of a plugin or the gateway. */
export const seriesKey = ({ via, plugin, target, service, method }) => JSON.stringify([via, plugin, target || '', service, method]);

export class CallHistory {
  #kept;
  #times;
  #size = 0;
  #interval = 1;
  #series = new Map();

  constructor(kept = KEPT) {
    this.#kept = kept;
    this.#times = new Float64Array(kept);
  }

  /** Number of samples that are kept; one that stands for a gap included. */
  get size() {
    return Math.min(this.#size, this.#kept);
  }

  /** The time of the latest sample, 0 before the first. */
  get latest() {
    return this.#size ? this.#times[(this.#size - 1) % this.#kept] : 0;
  }

  get interval() {
    return this.#interval;
  }

  add({ time, interval, rows }) {
    this.#interval = interval;
    if (this.#size && time <= this.latest) return; // Of a stream that was opened again.
    // Nothing was counted while the page was hidden: charts have a gap there.
    if (this.#size && time - this.latest > 3 * interval + 1) this.#sample(this.latest + interval, NaN, []);
    this.#sample(time, 0, rows);
  }

  #sample(time, absent, rows) {
    const slot = this.#size % this.#kept;
    this.#times[slot] = time;
    this.#size += 1;
    for (const series of this.#series.values()) series.begin(slot, absent);
    for (const row of rows) this.#seriesOf(row).set(slot, row, this.#interval, time);
    this.#forget();
  }

  #seriesOf(row) {
    const key = seriesKey(row);
    let series = this.#series.get(key);
    if (!series) {
      series = new Series(key, row, this.#kept);
      this.#series.set(key, series);
    }
    return series;
  }

  #forget() {
    if (this.#series.size <= MAX_SERIES) return;
    const oldest = [...this.#series.values()].sort((a, b) => a.called - b.called).slice(0, this.#series.size - MAX_SERIES);
    for (const { key } of oldest) this.#series.delete(key);
  }

  /** Rows of the table, of the last `seconds`: what the latest sample has, and sums over all of them. */
  table(seconds) {
    const slots = this.#slots(seconds);
    return [...this.#series.values()].filter(({ method }) => method)
      .map((series) => series.summary(slots, this.#interval));
  }

  /**
   * What charts show of the last `seconds`, summed over the series with these keys: `times`, `rate`, `errorRate`,
   * `inFlight`, and `statuses`, a Map of rates by status. Values are null in gaps.
   *
   * Quantiles cannot be summed: `p50`, `p95` and `p99` are those of `total`, the key of a series that is of the same
   * calls, else of the slowest of the series at each time.
   */
  chart(keys, seconds, total = null) {
    const slots = this.#slots(seconds);
    const series = keys.map((key) => this.#series.get(key)).filter(Boolean);
    const measured = this.#series.has(total) ? [this.#series.get(total)] : series;
    const line = (combine, values) => slots.map((slot) => orNull(combine(values.map((each) => each[slot]))));
    const of = (name, from = series) => from.map((each) => each.values[name]);
    const statuses = [...new Set(series.flatMap((each) => [...each.statuses.keys()]))].sort();
    return {
      times: slots.map((slot) => this.#times[slot]),
      rate: line(sum, of('rate')),
      errorRate: line(sum, of('errorRate')),
      inFlight: line(sum, of('inFlight')),
      statuses: new Map(statuses.map((status) => [status, line(sum, series.map((each) => each.statuses.get(status) ?? each.noErrors()))])),
      ...Object.fromEntries(QUANTILES.map((name) => [name, line(highest, of(name, measured))])),
      exact: measured.length === 1,
    };
  }

  // The slots of the last seconds, the oldest first.
  #slots(seconds) {
    const from = this.latest - seconds;
    const slots = [];
    for (let index = this.#size - 1; index >= Math.max(0, this.#size - this.#kept); index -= 1) {
      const slot = index % this.#kept;
      if (this.#times[slot] <= from) break;
      slots.push(slot);
    }
    return slots.reverse();
  }
}

const highest = (values) => values.reduce((high, each) => (each > high || Number.isNaN(high) ? each : high), NaN);

const orNull = (value) => (Number.isNaN(value) ? null : value);

class Series {
  called = 0;
  statuses = new Map();

  constructor(key, { via, plugin, target = '', service, method }, kept) {
    Object.assign(this, { key, via, plugin, target, service, method, kept });
    this.values = Object.fromEntries(VALUES.map((name) => [name, new Float32Array(kept).fill(NaN)]));
  }

  /** Begins a sample in which nothing was called, or of which nothing is known if `absent` is NaN. */
  begin(slot, absent) {
    const { rate, errorRate, inFlight, ...quantiles } = this.values;
    for (const values of [rate, errorRate, inFlight, ...this.statuses.values()]) values[slot] = absent;
    for (const values of Object.values(quantiles)) values[slot] = NaN;
  }

  set(slot, row, interval, time) {
    const errors = Object.entries(row.errors ?? {});
    this.values.rate[slot] = row.rate;
    this.values.inFlight[slot] = row.in_flight ?? 0;
    this.values.errorRate[slot] = sum(errors.map(([, number]) => number)) / interval;
    for (const name of QUANTILES) this.values[name][slot] = row.count ? row[name] ?? NaN : NaN;
    for (const [status, number] of errors) {
      if (!this.statuses.has(status)) this.statuses.set(status, this.noErrors());
      this.statuses.get(status)[slot] = number / interval;
    }
    if (row.rate > 0 || row.in_flight > 0 || !this.called) this.called = time;
  }

  /** Values of a status that no call has ended with: zeros, except in gaps. */
  noErrors() {
    return this.values.rate.map((rate) => rate * 0);
  }

  summary(slots, interval) {
    const { rate, errorRate, inFlight } = this.values;
    const known = slots.filter((slot) => !Number.isNaN(rate[slot]));
    const mean = (values) => (known.length ? sum(known.map((slot) => values[slot])) / known.length : 0);
    const [calls, failed] = [mean(rate), mean(errorRate)];
    const measured = known.findLast((slot) => !Number.isNaN(this.values.p50[slot]));
    return {
      key: this.key,
      via: this.via,
      plugin: this.plugin,
      target: this.target,
      service: this.service,
      method: this.method,
      rate: calls,
      history: known.slice(-60).map((slot) => rate[slot]),
      inFlight: known.length ? inFlight[known.at(-1)] : 0,
      errorShare: calls ? Math.min(1, failed / calls) : 0,
      errors: [...this.statuses].map(([status, values]) => [status, Math.round(sum(known.map((slot) => values[slot])) * interval)])
        .filter(([, number]) => number > 0).sort(([, a], [, b]) => b - a),
      ...Object.fromEntries(QUANTILES.map((name) => [name, measured === undefined ? undefined : this.values[name][measured]])),
    };
  }
}
