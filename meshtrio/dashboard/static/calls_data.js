// The history of calls, kept for as long as the page is open.
import { CallHistory } from './model/calls.js';
import { restarts } from './session.js';
import { Store } from './store.js';
import { stream } from './stream.js';

export let history = new CallHistory();

/** Grows with each sample of the history. */
export const samples = new Store(0);

/** Why the mesh does not count calls, as a `problem` message; null if it does. */
export const problem = new Store(null);

let following = false;

/** Begins with the history, once: from the first look at calls on, since counting them by method costs the mesh something. */
export function followCalls() {
  if (following) return;
  following = true;
  stream.want({ calls: 1 });
  stream.on('calls', (message) => {
    history.add(message);
    problem.set(null);
    samples.set(samples.value + 1);
  });
  stream.on('problem', (told) => told.stream === 'calls' && problem.set(told));
  // Another mesh's calls are no history of this one's.
  restarts.subscribe(() => {
    history = new CallHistory();
    samples.set(samples.value + 1);
  });
}
