// Services, their endpoints, and how the mesh's own channels balance calls between them.
import { Empty, Page, Reply, SearchField, Segmented } from '../components/layout.js';
import { ServiceDetails } from '../components/service_details.js';
import { Table } from '../components/table.js';
import { StatusBadge, Text } from '../components/text.js';
import { useApi, useMessages, useTopics } from '../data.js';
import { count, NONE, plural } from '../format.js';
import { html, useMemo, useState } from '../lib.js';
import { isFound, parseQuery } from '../model/search.js';
import { buildServices } from '../model/services.js';
import { setParams } from '../router.js';

const some = (value) => (value ? count(value) : NONE);

const COLUMNS = [
  { key: 'name', title: 'Service', className: 'cell-service', sort: (row) => row.name, render: (row) => html`<${Text} value=${row.name} />` },
  {
    key: 'condition', title: 'State', sort: (row) => ['bad', 'warn', 'busy', 'good', 'off'].indexOf(row.condition[1]),
    render: ({ condition: [state, tone] }) => html`<${StatusBadge} state=${state} tone=${tone} />`,
  },
  { key: 'endpoints', title: 'Endpoints', numeric: true, sort: (row) => row.endpoints.length, render: (row) => some(row.endpoints.length) },
  { key: 'inFlight', title: 'In flight', numeric: true, sort: (row) => row.inFlight, render: (row) => some(row.inFlight) },
  { key: 'waiting', title: 'Waiting', numeric: true, className: 'cell-extra', sort: (row) => row.waiting, render: (row) => some(row.waiting) },
  { key: 'ejected', title: 'Ejected', numeric: true, sort: (row) => row.ejected, render: (row) => some(row.ejected) },
  { key: 'retries', title: 'Retries', numeric: true, sort: (row) => row.retries, render: (row) => some(row.retries) },
  { key: 'policy', title: 'Policy', className: 'nowrap cell-extra', sort: (row) => row.policy || undefined, render: (row) => html`<${Text} value=${row.policy || NONE} />` },
];

const SHOWN = [['', 'All'], ['trouble', 'Trouble']];
const isTrouble = ({ condition: [, tone] }) => tone === 'bad' || tone === 'warn';

export default function Services({ params: { name = '', search = '', show = '' } }) {
  const reply = useApi('services', {}, { live: true });
  const [latest, setLatest] = useState(null);
  useTopics({ services: 1 });
  useMessages('services', setLatest);
  return html`
    <${Page} title="Services" subtitle="Endpoints, and how the mesh's own channels balance calls between them" wide>
      <${Reply} of=${latest ? { ...reply, data: latest } : reply} what="The services">${(data) => html`
        <${Listing} data=${data} name=${name} search=${search} show=${show} />`}<//>
    <//>`;
}

function Listing({ data, name, search, show }) {
  const services = useMemo(() => buildServices(data), [data]);
  const query = useMemo(() => parseQuery(search), [search]);
  const rows = services.filter((row) => isFound(row.name.toLowerCase(), query) && (show !== 'trouble' || isTrouble(row)));
  const selected = services.find((row) => row.name === name);
  const choose = (row) => setParams({ name: row === selected ? '' : row.name });
  if (!services.length) return html`<${Empty} title="No services">A plugin's service is there once the plugin is part of the config.<//>`;
  return html`
    <div class="toolbar">
      <${SearchField} label="Search services" value=${search} onInput=${(text) => setParams({ search: text })} />
      <${Segmented} label="Show" options=${SHOWN} value=${show} onChange=${(value) => setParams({ show: value })} />
      <p class="muted">${plural(services.length, 'service')}, ${plural(services.reduce((sum, { endpoints }) => sum + endpoints.length, 0), 'endpoint')}</p>
    </div>
    <div class=${`tree-layout services-layout${selected ? ' has-details' : ''}`}>
      ${rows.length
        ? html`<${Table} caption="Services" columns=${COLUMNS} rows=${rows} rowKey=${(row) => row.name} sort=${{ key: 'name' }} onRow=${choose}
            selectedKey=${selected?.name ?? ''} />`
        : html`<${Empty} title="No service is found" />`}
      ${selected && html`<${ServiceDetails} key=${selected.name} service=${selected} onClose=${() => setParams({ name: '' })} />`}
    </div>`;
}
