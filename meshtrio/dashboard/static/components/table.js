// A table that stays smooth with many rows: only rows whose object has changed are rendered.
import { html, memo, useMemo, useState } from '../lib.js';

/**
 * `columns` (a constant of the module): `{key, title, render(row), sort(row), numeric, className}`; one
 * without `sort` cannot be sorted by. `rowKey(row)` identifies a row. `sort` is `{key, reverse}` at
 * first. `onRow(row)`: a row can be chosen, by its first cell's button. `caption` is for screen readers.
 */
export function Table({ caption, columns, rows, rowKey, sort: firstSort = null, onRow, selectedKey, className = '' }) {
  const [sort, setSort] = useState(firstSort);
  const sorted = useMemo(() => sortRows(rows, columns, sort), [rows, columns, sort]);
  return html`
    <div class="table-scroll" role="region" aria-label=${caption} tabindex="0">
      <table class=${`table ${className}`}>
        <caption class="visually-hidden">${caption}</caption>
        <thead><tr>${columns.map((column) => html`
          <${Heading} key=${column.key} column=${column} sort=${sort} setSort=${setSort} />`)}</tr></thead>
        <tbody>${sorted.map((row) => html`
          <${Row} key=${rowKey(row)} row=${row} columns=${columns} onRow=${onRow}
            selected=${selectedKey !== undefined && rowKey(row) === selectedKey} />`)}</tbody>
      </table>
    </div>`;
}

function Heading({ column, sort, setSort }) {
  const className = cellClass(column);
  if (!column.sort) return html`<th scope="col" class=${className}>${column.title}</th>`;
  const current = sort?.key === column.key;
  const order = current ? (sort.reverse ? 'descending' : 'ascending') : 'none';
  const next = { key: column.key, reverse: current ? !sort.reverse : Boolean(column.numeric) };
  return html`
    <th scope="col" class=${className} aria-sort=${order}>
      <button type="button" class="sort" onClick=${() => setSort(next)}>${column.title}<span aria-hidden="true"
        class="sort-mark">${current ? (sort.reverse ? '↓' : '↑') : ''}</span></button>
    </th>`;
}

const Row = memo(({ row, columns, onRow, selected }) => html`
  <tr class=${selected ? 'selected' : ''}>
    ${columns.map((column, index) => html`
      <td key=${column.key} class=${cellClass(column)}>${onRow && index === 0
        ? html`<button type="button" class="link" aria-expanded=${selected} onClick=${() => onRow(row)}>${column.render(row)}</button>`
        : column.render(row)}</td>`)}
  </tr>`);

function cellClass({ numeric, className = '' }) {
  return numeric ? `numeric ${className}` : className;
}

/** Rows in the order of a column; those without a value come last in either direction. */
export function sortRows(rows, columns, sort) {
  const value = columns.find((column) => column.key === sort?.key)?.sort;
  if (!value) return rows;
  const direction = sort.reverse ? -1 : 1;
  const missing = (key) => key === undefined || key === null;
  return rows.map((row) => [value(row), row]).sort(([a], [b]) => {
    if (missing(a) || missing(b)) return missing(a) - missing(b);
    return direction * (typeof a === 'string' ? a.localeCompare(b, undefined, { numeric: true }) : a - b);
  }).map(([, row]) => row);
}
