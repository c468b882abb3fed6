// The nodes of a mesh that spans several machines.
import { Empty, Facts, Page, Reply } from '../components/layout.js';
import { Table } from '../components/table.js';
import { StatusBadge, Text, ToneMark } from '../components/text.js';
import { useApi, useMessages, useTopics } from '../data.js';
import { count, dateTime, duration, NONE } from '../format.js';
import { html, useState } from '../lib.js';

const text = (value) => html`<${Text} value=${value || NONE} />`;

const COLUMNS = [
  {
    key: 'name', title: 'Node', sort: (node) => node.name,
    render: (node) => html`<${Text} value=${node.name} />${node.this_mesh ? html` <span class="kind">this mesh</span>` : ''}`,
  },
  { key: 'zone', title: 'Zone', sort: (node) => node.zone, render: (node) => text(node.zone) },
  { key: 'address', title: 'Gateway', className: 'mono', sort: (node) => node.address, render: (node) => text(node.address) },
  { key: 'endpoints', title: 'Endpoints', numeric: true, sort: (node) => node.endpoints, render: (node) => count(node.endpoints) },
  { key: 'version', title: 'Version', sort: (node) => node.version, render: (node) => text(node.version) },
  { key: 'since', title: 'Since', className: 'nowrap', sort: (node) => node.since, render: (node) => dateTime(node.since || NaN) },
  { key: 'lease', title: 'Lease', className: 'mono', render: (node) => text(node.lease) },
];

export default function Nodes() {
  const reply = useApi('nodes', {}, { live: true });
  const [latest, setLatest] = useState(null);
  useTopics({ nodes: 1 });
  useMessages('nodes', setLatest);
  if (reply.error?.code === 'FAILED_PRECONDITION') {
    return html`<${Page} title="Nodes"><${Empty} title="A single node">This mesh has no [mesh.discovery], so it is alone.<//><//>`;
  }
  return html`
    <${Page} title="Nodes" subtitle="The meshes that are registered in etcd">
      <${Reply} of=${reply} what="The nodes">${(data) => {
        const { nodes, discovery } = latest ?? data;
        return html`
          <${Discovery} discovery=${discovery} />
          ${nodes.length
            ? html`<${Table} caption="Nodes" columns=${COLUMNS} rows=${nodes} rowKey=${({ name }) => name} sort=${{ key: 'name' }} />`
            : html`<${Empty} title="No nodes are known" />`}
          <${IgnoredKeys} keys=${Object.entries(discovery?.ignored_keys ?? {})} />`;
      }}<//>
    <//>`;
}

function Discovery({ discovery }) {
  if (!discovery) return null;
  const { connected, registered, problem, registration_problem: registrationProblem } = discovery;
  return html`
    <section class="card" aria-labelledby="etcd-title">
      <div class="card-head">
        <h2 id="etcd-title">etcd</h2>
        <${StatusBadge} state=${connected ? 'connected' : 'not connected'} tone=${connected ? 'good' : 'bad'} />
        <${StatusBadge} state=${registered ? 'registered' : 'not registered'} tone=${registered ? 'good' : 'warn'} />
      </div>
      ${[problem, registrationProblem].filter(Boolean).map((each) => html`
        <p key=${each} class="reason tone-warn"><${ToneMark} tone="warn" /><${Text} value=${each} /></p>`)}
      <${Facts} facts=${[
        ['Node', text(discovery.node)],
        ['Prefix', html`<span class="mono">${text(discovery.prefix)}</span>`],
        ['Member', html`<span class="mono">${text(discovery.member)}</span>`],
        ['Lag', duration(discovery.lag)],
        ['Revision', count(discovery.revision)],
        ['Lease', html`<span class="mono">${text(discovery.lease)}</span>`],
        ['Lease renewals', count(discovery.lease_renewals)],
        ['Leases lost', count(discovery.lease_losses)],
      ]} />
    </section>`;
}

function IgnoredKeys({ keys }) {
  if (!keys.length) return null;
  return html`
    <section class="card">
      <h2>Keys that cannot be used</h2>
      <dl class="plain-list">
        ${keys.map(([key, reason]) => html`<div key=${key}><dt class="mono"><${Text} value=${key} /></dt><dd><${Text} value=${reason} /></dd></div>`)}
      </dl>
    </section>`;
}
