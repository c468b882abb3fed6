// The list of views.
import { html, memo, useEffect, useRef } from '../lib.js';
import { href } from '../router.js';
import { mesh } from '../session.js';
import { useStore } from '../store.js';
import { VIEWS } from '../views.js';

export const Navigation = memo(({ current }) => {
  const now = useStore(mesh);
  const list = useRef(null);
  const offered = VIEWS.filter(({ only, name }) => !only || now?.[only] || name === current);
  const groups = [...new Set(offered.map(({ group }) => group))];
  // On a narrow page the list is one row that scrolls.
  useEffect(() => {
    list.current.querySelector('[aria-current]')?.scrollIntoView({ block: 'nearest', inline: 'center' });
  }, [current]);
  return html`
    <nav class="nav" aria-label="Views" ref=${list}>
      ${groups.map((group) => html`
        <div class="nav-group" key=${group}>
          <p class="nav-title" id=${`nav-${group}`}>${group}</p>
          <ul aria-labelledby=${`nav-${group}`}>
            ${offered.filter((view) => view.group === group).map(({ name, title }) => html`
              <li key=${name}><a href=${href(name)} aria-current=${name === current ? 'page' : undefined}>${title}</a></li>`)}
          </ul>
        </div>`)}
    </nav>`;
});
