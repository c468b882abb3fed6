// The config in force, with secrets masked.
import { requestAction, useControl } from '../actions.js';
import { Page, Reply } from '../components/layout.js';
import { Text } from '../components/text.js';
import { useApi } from '../data.js';
import { plural } from '../format.js';
import { html, memo, useState } from '../lib.js';
import { highlightToml } from '../model/toml.js';
import { setParams } from '../router.js';
import { mesh } from '../session.js';
import { useStore } from '../store.js';

export default function Config({ params }) {
  const defaults = params.defaults === '1';
  const config = useApi('config', { defaults: defaults ? 'true' : '' }, { every: 30 });
  return html`
    <${Page} title="Config" subtitle=${html`<${Subtitle} config=${config.data} />`} actions=${html`<${Actions} config=${config.data} />`}>
      <label class="check"><input type="checkbox" checked=${defaults}
        onChange=${(event) => setParams({ defaults: event.target.checked ? '1' : null })} /> Show defaults</label>
      <${Reply} of=${config} what="The config">${({ toml }) => html`<${Toml} toml=${toml} />`}<//>
    <//>`;
}

function Subtitle({ config }) {
  if (!config) return 'What the mesh runs by';
  const masked = config.masked ? `, ${plural(config.masked, 'value')} masked` : '';
  return config.source
    ? html`In force; read from <span class="mono"><${Text} value=${config.source} /></span>${masked}`
    : `In force; not from a file${masked}`;
}

function Actions({ config }) {
  const name = useStore(mesh, (now) => now?.name);
  const control = useControl();
  const [copied, setCopied] = useState(false);
  const copy = async () => {
    await navigator.clipboard.writeText(config.toml);
    setCopied(true);
    setTimeout(() => setCopied(false), 2000);
  };
  // Without TLS, browsers have a clipboard for pages of the same machine only.
  return html`
    ${navigator.clipboard && config && html`<button type="button" onClick=${copy}><span role="status">${copied ? 'Copied' : 'Copy'}</span></button>`}
    ${control && html`
      <button type="button" aria-haspopup="dialog" onClick=${() => requestAction('reload', { kind: 'mesh', name })}>Reload config</button>`}`;
}

const Toml = memo(({ toml }) => html`
  <div class="code" role="region" aria-label="Config as TOML" tabindex="0">
    <ol class="code-lines">
      ${highlightToml(toml).map((parts, index) => html`
        <li key=${index} class=${parts[0]?.kind === 'table' ? 'code-table' : ''}><code>${parts.map(({ kind, text }) => html`<span class=${`code-${kind}`}><${Text} value=${text} /></span>`)}</code></li>`)}
    </ol>
  </div>`);
