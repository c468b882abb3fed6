// The states of instances and tasks. Pure.

/** Tone by state: good, busy (on its way), warn, bad, off (does not run, as meant), info. */
const TONES = {
  ready: 'good',
  completed: 'good',
  pending: 'busy',
  starting: 'busy',
  running: 'busy',
  stopping: 'busy',
  unready: 'warn',
  backoff: 'warn',
  failed: 'bad',
  exited: 'off',
  idle: 'off',
  stopped: 'off',
  scheduled: 'off',
  attached: 'info',
};

/** States by how much an operator has to know of them; the first are the worst. */
const RANKING = [
  'failed', 'backoff', 'unready', 'stopping', 'starting', 'pending', 'attached', 'running', 'ready', 'completed',
  'idle', 'scheduled', 'exited', 'stopped',
];

/** The tone of a state. One that a newer mesh has is `info`. */
export function toneOf(state) {
  return TONES[state] ?? 'info';
}

/** Whether a state is a reason to look at it. */
export function isTrouble(state) {
  return toneOf(state) === 'warn' || toneOf(state) === 'bad';
}

/** The states of instances with their numbers, the worst first: [['failed', 1], ['ready', 3]]. */
export function countStates(states) {
  const counts = new Map();
  for (const state of states) counts.set(state, (counts.get(state) ?? 0) + 1);
  return sortStates([...counts]);
}

/** Pairs of state and number, the worst first, without those that no instance is in. */
export function sortStates(pairs) {
  const rank = (state) => (RANKING.includes(state) ? RANKING.indexOf(state) : RANKING.length);
  return pairs.filter(([, number]) => number).sort(([a], [b]) => rank(a) - rank(b));
}

/** Tone of a level of Python's logging, for events and log lines. */
export function toneOfLevel(level) {
  return { DEBUG: 'off', INFO: 'info', WARNING: 'warn', ERROR: 'bad', CRITICAL: 'bad' }[level] ?? 'off';
}

/** Tone of an event: what is as it should be does not stand out. */
export function toneOfEvent({ level, kind }) {
  if (level !== 'INFO') return toneOfLevel(level);
  return kind === 'ready' || kind === 'task-completed' ? 'good' : 'off';
}
