// The page: what stands around the views.
import { ActionDialog, Reports } from './components/action_dialog.js';
import { ConnectionBanner, ConnectionMark } from './components/connection.js';
import { ErrorNote, Loading, Page } from './components/layout.js';
import { MeshSummary } from './components/mesh_summary.js';
import { Navigation } from './components/navigation.js';
import { ErrorBoundary, html, render, useEffect, useState } from './lib.js';
import { followStatistics } from './load.js';
import { route } from './router.js';
import { followMesh, mesh } from './session.js';
import { useStore } from './store.js';
import { stream } from './stream.js';
import { VIEWS } from './views.js';

function App() {
  const { view, params } = useStore(route);
  const meshName = useStore(mesh, (now) => now?.name);
  const entry = VIEWS.find(({ name }) => name === view);
  useEffect(() => {
    document.title = [entry?.title ?? 'Not found', meshName, 'meshtrio'].filter(Boolean).join(' · ');
  }, [view, meshName]);
  return html`
    <a class="skip" href="#main" onClick=${skipToMain}>Skip to content</a>
    <header class="top">
      <${Brand} />
      <${MeshSummary} />
      <${ConnectionMark} />
    </header>
    <${Navigation} current=${view} />
    <main id="main" tabindex="-1">
      <${ConnectionBanner} />
      <${ErrorBoundary} resetKey=${location.hash}
        fallback=${(error) => html`<${ErrorNote} error=${error} what="This view has failed." onRetry=${() => location.reload()} />`}>
        ${entry ? html`<${View} key=${view} entry=${entry} params=${params} />` : html`<${NotFound} />`}
      <//>
    </main>
    <${ActionDialog} />
    <${Reports} />`;
}

function Brand() {
  const name = useStore(mesh, (now) => now?.name);
  const version = useStore(mesh, (now) => now?.version);
  return html`
    <a class="brand" href="#/tree" title=${version ? `meshtrio ${version}` : undefined}>
      <svg class="logo" viewBox="0 0 24 24" aria-hidden="true">
        <path d="M12 4v16M5 8l14 8M19 8L5 16" /><circle cx="12" cy="12" r="3.2" />
      </svg>
      <span class="brand-name">${name || 'meshtrio'}</span>
    </a>`;
}

// The hash is the route, so the link must not set it.
function skipToMain(event) {
  event.preventDefault();
  (document.querySelector('main h1') ?? document.querySelector('main')).focus();
}

let firstView = true;

/** Loads a view's module and shows it. The focus goes to its heading, unless it is the page's first. */
function View({ entry, params }) {
  const [loaded, setLoaded] = useState({});
  useEffect(() => {
    let current = true;
    entry.load().then(
      (module) => current && setLoaded({ component: module.default }),
      (error) => current && setLoaded({ error }),
    );
    return () => { current = false; };
  }, []);
  useEffect(() => {
    if (!loaded.component) return;
    if (!firstView) document.querySelector('main h1')?.focus();
    firstView = false;
  }, [loaded]);
  if (loaded.error) {
    return html`<${Page} title=${entry.title}>
      <${ErrorNote} error=${loaded.error} what="This view cannot be loaded." onRetry=${() => location.reload()} /><//>`;
  }
  return loaded.component ? html`<${loaded.component} params=${params} />` : html`<${Loading} />`;
}

function NotFound() {
  return html`<${Page} title="Not found"><p>There is no such view. <a href="#/tree">Go to the tree</a>.</p><//>`;
}

followMesh();
followStatistics();
stream.start();
const root = document.getElementById('app');
root.replaceChildren();
render(html`<${App} />`, root);
