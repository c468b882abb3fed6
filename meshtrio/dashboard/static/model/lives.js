// Lives of processes, as GetHistory has them, as what a timeline shows. Pure.
import { duration, plural, time } from '../format.js';

/** Keeps lives by id, and makes rows of them that stay identical objects while they are unchanged. */
export class LifeStore {
  #lives = new Map();
  #rows = new Map();

  /** Adds lives, or replaces them by their latest state; a reply may be older than a message. */
  add(lives) {
    for (const life of lives) {
      const known = this.#lives.get(life.id);
      if (!known || progress(life) >= progress(known)) this.#lives.set(life.id, life);
    }
  }

  clear() {
    this.#lives.clear();
  }

  /** Forgets lives that ended before, so that a page that is open for days does not grow. */
  prune(before) {
    for (const lives of this.#byKey().values()) {
      const kept = new Set(trim(lives, before));
      for (const life of lives) if (!kept.has(life)) this.#lives.delete(life.id);
    }
  }

  /** Lives that lasted until `since`, by rows `{key, plugin, instance, task, lives}`; the lives by their starts. */
  rows(since = 0) {
    const rows = [...this.#byKey()].map(([key, all]) => {
      const lives = trim(all, since);
      const before = this.#rows.get(key);
      const same = before?.lives.length === lives.length && lives.every((life, index) => life === before.lives[index]);
      if (!lives.length) return null;
      if (same) return before;
      const { plugin, instance, task } = lives[0];
      return { key, plugin, instance, task, lives, lanes: assignLanes(lives) };
    }).filter(Boolean);
    this.#rows = new Map(rows.map((row) => [row.key, row]));
    return rows.sort((a, b) => a.task - b.task || a.plugin.localeCompare(b.plugin, undefined, { numeric: true }) || a.instance - b.instance);
  }

  #byKey() {
    const byKey = new Map();
    for (const life of [...this.#lives.values()].sort((a, b) => a.started - b.started || a.id - b.id)) {
      const key = `${life.plugin}/${life.instance}`;
      if (!byKey.has(key)) byKey.set(key, []);
      byKey.get(key).push(life);
    }
    return byKey;
  }
}

function progress({ moments, moments_dropped: dropped = 0, ended }) {
  return ended == null ? moments.length + dropped : Infinity;
}

// Those that lasted until then, and the one before if its instance may still have had no process then.
function trim(lives, since) {
  const first = lives.findIndex(({ ended }) => ended == null || ended >= since);
  const before = lives.at(first < 0 ? -1 : first - 1);
  if (first < 0) return before?.next_state ? [before] : [];
  return first > 0 && before.next_state ? lives.slice(first - 1) : lives.slice(first);
}

/** The lane of each life, from 0: a successor that runs beside its predecessor has another one. */
export function assignLanes(lives) {
  const ends = [];
  return lives.map((life) => {
    let lane = ends.findIndex((end) => end <= life.started);
    if (lane < 0) lane = ends.length;
    ends[lane] = life.ended ?? Infinity;
    return lane;
  });
}

const PHASES = { ready: 'ready', unready: 'unready', draining: 'draining', stopping: 'draining' };

/**
 * The phases of a life, `{phase, from, to}`: starting, running (a task, or not known), ready, unready
 * and draining. The last one of a life that goes on ends at `now`.
 */
export function phasesOf(life, now) {
  const end = life.ended ?? Math.max(now, life.started);
  const phases = [{ phase: life.task || life.follows === 'adopted' ? 'running' : 'starting', from: life.started, to: end }];
  for (const moment of life.moments) {
    const phase = PHASES[moment.kind];
    const last = phases.at(-1);
    if (!phase || phase === last.phase) continue;
    const at = Math.min(Math.max(moment.time, last.from), end);
    last.to = at;
    phases.push({ phase, from: at, to: end });
  }
  return phases.filter(({ from, to }, index) => to > from || index === phases.length - 1);
}

/** The times without a process, `{state, from, to, after}`: backoff, stopped and so on. */
export function gapsOf({ lives }, now) {
  return lives.flatMap((life, index) => {
    if (life.ended == null || !life.next_state) return [];
    const next = lives.slice(index + 1).find(({ started }) => started >= life.ended);
    const to = next ? next.started : now;
    return to > life.ended ? [{ state: life.next_state, from: life.ended, to, after: life }] : [];
  });
}

/** When the life's process was ready first, null if it was not. */
export function readyAt(life) {
  return life.moments.find(({ kind }) => kind === 'ready')?.time ?? null;
}

/** The current phase of a life, or its outcome. */
export function stateOf(life, now) {
  return life.ended == null ? phasesOf(life, now).at(-1).phase : life.outcome || 'unknown';
}

/** The tone of a phase, outcome or waiting state in the timeline. */
export function toneOfLife(state) {
  return {
    starting: 'busy', running: 'busy', ready: 'good', unready: 'warn', draining: 'info', completed: 'good', exited: 'off', failed: 'bad',
    'not-started': 'bad', backoff: 'warn', stopped: 'off', pending: 'busy', idle: 'off', scheduled: 'off',
  }[state] ?? 'off';
}

const FOLLOWS = {
  start: 'start', restart: 'restart', renewal: 'renewal', 'group-restart': 'restart of its group', demand: 'demand', task: 'run of the task',
  retry: 'retry', adopted: 'was running before an upgrade',
};

/** What a life was started for, in words. */
export function followsText(life) {
  return FOLLOWS[life.follows] ?? life.follows;
}

/** A life as a sentence, for screen readers. */
export function describeLife(life, now) {
  const ready = readyAt(life);
  const parts = [
    `${life.plugin}/${life.instance}${life.pid == null ? '' : `, pid ${life.pid}`}`,
    `${life.follows === 'adopted' ? '' : 'started '}${time(life.started)} (${followsText(life)})`,
    ready === null ? '' : `ready after ${duration(ready - life.started)}`,
    life.ended == null
      ? `${stateOf(life, now)} for ${duration(Math.max(0, now - phasesOf(life, now).at(-1).from))}`
      : `${life.outcome} ${time(life.ended)} after ${duration(life.ended - life.started)}${life.reason ? `: ${life.reason}` : ''}`,
    life.last_lines?.length ? plural(life.last_lines.length, 'last line') : '',
  ];
  return parts.filter(Boolean).join(', ');
}

/** The life of a row that is nearest to a time. */
export function nearestLife({ lives }, when, now) {
  const distance = (life) => Math.max(life.started - when, when - (life.ended ?? now), 0);
  return lives.reduce((best, life) => (best && distance(best) < distance(life) ? best : life), null);
}
