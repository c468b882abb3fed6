// All that is known of a service: its endpoints, exits, and its service config.
import { useNow } from '../data.js';
import { age, count, dateTime } from '../format.js';
import { html, useEffect, useRef } from '../lib.js';
import { prettyJson, toneOfEndpoint } from '../model/services.js';
import { href } from '../router.js';
import { Facts } from './layout.js';
import { StatusBadge, Text, ToneMark } from './text.js';

const RULES = { success_rate: 'its success rate', failure_percentage: 'its share of failures', consecutive_failures: 'consecutive failures' };

export function ServiceDetails({ service, onClose }) {
  const { name, state, condition: [condition, tone], endpoints, channels } = service;
  const plugin = name.replace(/^plugin\./, '');
  const heading = useRef(null);
  useEffect(() => heading.current.focus({ preventScroll: true }), []);
  return html`
    <aside class="details service-details" aria-labelledby="service-title" onKeyDown=${(event) => event.key === 'Escape' && onClose()}>
      <div class="details-head">
        <h2 id="service-title" tabindex="-1" ref=${heading}><${Text} value=${name} /></h2>
        <${StatusBadge} state=${condition} tone=${tone} />
        <button type="button" class="quiet close" aria-label="Close the details" onClick=${onClose}>✕</button>
      </div>
      <${Facts} facts=${[
        ['Started on demand', state.on_demand ? 'yes' : ''],
        ['Managed', state.unattended ? 'by no plugin and no table of the config' : ''],
        ...channels.flatMap((channel) => [
          [channel.own_endpoints_only ? 'Policy for other nodes' : 'Policy', html`<${Text} value=${channel.policy} />`],
          [channel.own_endpoints_only ? 'Waiting calls of other nodes' : 'Waiting calls', count(channel.waiting)],
        ]),
      ]} />
      ${!channels.length && html`<p class="muted">The gateway has not called it, so that nothing is known about its balancing.</p>`}
      <section class="details-part">
        <h3>Endpoints</h3>
        ${endpoints.length === 0 && html`<p class="muted">There are none now.</p>`}
        <ul class="endpoints">${endpoints.map((endpoint) => html`<${Endpoint} key=${endpoint.id} endpoint=${endpoint} plugin=${plugin} />`)}</ul>
      </section>
      <${Exits} exits=${state.departures} />
      ${state.service_config && html`
        <details class="details-part"><summary>Service config</summary>
          <pre class="lines" tabindex="0" aria-label="Service config"><${Text} value=${prettyJson(state.service_config)} /></pre></details>`}
      <p class="details-links">
        <a href=${href('tree', { select: plugin })}>Tree</a>
        <a href=${href('calls', { names: plugin })}>Calls</a>
        <a href=${href('tap', { names: plugin })}>Live tap</a>
        <a href=${href('logs', { names: plugin })}>Logs</a>
      </p>
    </aside>`;
}

function Endpoint({ endpoint, plugin }) {
  const { address, condition, ejection, node, gone, pid, connectError } = endpoint;
  const local = !node && pid > 0;
  const title = node ? `${node}${endpoint.gateway ? ' (gateway)' : ''}` : `${plugin}/${endpoint.instance ?? '?'}`;
  return html`
    <li class="endpoint">
      <div class="card-head">
        <strong>${local ? html`<a href=${href('tree', { select: title })}><${Text} value=${title} /></a>` : html`<${Text} value=${gone ? 'gone' : title} />`}</strong>
        <${StatusBadge} state=${condition} tone=${toneOfEndpoint(condition)} />
      </div>
      <p class="mono muted endpoint-address"><${Text} value=${address} /></p>
      ${ejection && html`<${Ejection} ...${ejection} />`}
      ${connectError && html`<p class="reason tone-bad"><${ToneMark} tone="bad" /><span>Connecting has failed: <${Text} value=${connectError} /></span></p>`}
      <${Facts} facts=${[
        ['In flight', endpoint.inFlight === undefined ? '' : count(endpoint.inFlight)],
        ['Weight', endpoint.weight],
        ['Priority', endpoint.priority ? String(endpoint.priority) : ''],
        ['Retries', endpoint.retries ? count(endpoint.retries) : ''],
        ['Ejections', endpoint.ejections ? count(endpoint.ejections) : ''],
        ['Failed connects', endpoint.failedConnects ? count(endpoint.failedConnects) : ''],
        ['TLS', endpoint.tls ? 'yes' : ''],
        ['Process', pid ? String(pid) : ''],
      ]} />
    </li>`;
}

function Ejection({ since, until, rule }) {
  const now = useNow(1);
  return html`
    <p class="reason tone-bad"><${ToneMark} tone="bad" /><span>Ejected for ${RULES[rule] ?? html`<${Text} value=${rule} />`}
      ${' '}<time title=${dateTime(since)}>${age(now - since)} ago</time>${until > now ? `, for ${age(until - now)} more` : ', may return soon'}.</span></p>`;
}

/** How endpoints have gone, the latest first. */
function Exits({ exits = [] }) {
  if (!exits.length) return null;
  return html`
    <section class="details-part">
      <h3>Gone endpoints</h3>
      <ul class="plain-list">${exits.slice().reverse().map(({ endpoint_id: id, reason, stderr_tail: lines = [], exit_status: status, signal }) => html`
        <li key=${id} class="exit">
          <p><${ToneMark} tone=${signal !== undefined || status ? 'bad' : 'off'} /> <${Text} value=${reason} /></p>
          ${lines.length > 0 && html`<pre class="lines" tabindex="0" aria-label="Last lines of stderr"><${Text} value=${lines.join('\n')} /></pre>`}
        </li>`)}</ul>
    </section>`;
}
