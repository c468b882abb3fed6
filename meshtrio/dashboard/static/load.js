// What instances use at this moment, for all views.
import { LoadHistory } from './model/load.js';
import { Store } from './store.js';
import { stream } from './stream.js';

/** The latest `statistics` message, null before the first. */
export const statistics = new Store(null);

/** Map of what each instance uses, by "name/number"; see model/load.js. */
export const loads = new Store(new Map());

export function followStatistics() {
  const history = new LoadHistory();
  stream.want({ statistics: 1 });
  stream.on('statistics', (message) => {
    loads.set(history.add(message));
    statistics.set(message);
  });
}
