// How the instances of the mesh are, at a glance.
import { html, memo } from '../lib.js';
import { statistics } from '../load.js';
import { sortStates } from '../model/states.js';
import { href } from '../router.js';
import { useStore } from '../store.js';
import { StatusBadge } from './text.js';

export function MeshSummary() {
  // As text, so that a message that changes nothing renders nothing.
  const states = useStore(statistics, (now) => JSON.stringify(now ? sortStates(Object.entries(now.total.states)) : []));
  return html`<${States} states=${states} />`;
}

const States = memo(({ states }) => html`
  <ul class="summary" aria-label="Instances by state">
    ${JSON.parse(states).map(([state, number]) => html`
      <li key=${state}><a href=${href('tree', { state })}><${StatusBadge} state=${state} number=${number} /></a></li>`)}
  </ul>`);
