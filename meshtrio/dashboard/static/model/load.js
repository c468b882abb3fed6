// What instances use, from one statistics message to the next. Pure.

const KEPT = 60; // Values of a sparkline.

/** Follows statistics messages: `add` returns what each instance uses, by "name/number". */
export class LoadHistory {
  #before = new Map();
  #time = 0;

  /**
   * Returns a Map of `{cpu, cpuHistory, resident, inFlight, inFlightHistory, load, instance}`. `cpu`
   * is the share of one core since the message before, undefined where that is not known.
   */
  add(statistics) {
    const elapsed = statistics.time - this.#time;
    const now = new Map();
    for (const each of statistics.instances) {
      const key = `${each.instance.name}/${each.instance.instance}`;
      const before = this.#before.get(key);
      // Another process has other counters, and a history of its own.
      const same = before && before.instance.pid === each.instance.pid && elapsed > 0;
      now.set(key, this.#one(each, same ? before : null, elapsed));
    }
    [this.#before, this.#time] = [now, statistics.time];
    return now;
  }

  #one({ instance, cpu, resident, load }, before, elapsed) {
    const used = before && cpu != null && before.cpuTime != null
      ? Math.max(0, (cpu - before.cpuTime) / elapsed) : undefined;
    return {
      instance,
      resident,
      load,
      cpu: used,
      cpuTime: cpu,
      cpuHistory: push(before?.cpuHistory, used),
      inFlight: load?.in_flight,
      inFlightHistory: push(before?.inFlightHistory, load?.in_flight),
    };
  }
}

function push(values = [], value) {
  return value === undefined ? values : [...values.slice(1 - KEPT), value];
}
