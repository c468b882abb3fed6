// Rows that come and come: the latest at the end, where it stays while it follows them.
import { count, plural } from '../format.js';
import { html, useId, useLayoutEffect, useRef, useState } from '../lib.js';
import { lastMatching } from '../model/feed.js';
import { ErrorNote } from './layout.js';

const SHOWN = 250; // Rows that are elements of the page; more by the button.
const NEAR = 30; // Pixels from the end that count as at the end.

/**
 * `live` is what useFeed returns. `matches(row)` filters rows, markers aside; `children(rows)` makes the elements of
 * those that are shown. `noun` is what rows are called: "line". A row that can be opened has a button of the class
 * `row-toggle`, which arrow keys move between.
 */
export function FeedView({ label, noun, live, matches, empty, children }) {
  const { feed, problem, pause, resume, clear } = live;
  const [size, setSize] = useState(SHOWN);
  const box = useRef(null);
  const help = useId();
  // Whether it was paused by scrolling: scrolling to the end resumes it then.
  const scrolled = useRef(false);
  const { shown, total } = lastMatching(feed.rows, (row) => row.marker || matches(row), feed.paused ? size : SHOWN);
  const kept = feed.rows.length;

  // Distance from the end of what is in sight, to stay there when rows are added above it.
  const fromEnd = useRef(null);
  useLayoutEffect(() => {
    if (!feed.paused) box.current.scrollTop = box.current.scrollHeight;
    else if (fromEnd.current !== null) box.current.scrollTop = box.current.scrollHeight - fromEnd.current;
    fromEnd.current = null;
  });
  const follow = () => {
    scrolled.current = false;
    setSize(SHOWN);
    resume();
  };
  const hold = (byScrolling) => {
    if (feed.paused) return;
    scrolled.current = byScrolling;
    setSize(SHOWN);
    pause();
  };
  const showEarlier = () => {
    hold(false);
    fromEnd.current = box.current.scrollHeight - box.current.scrollTop;
    setSize((before) => before + SHOWN);
  };
  return html`
    ${problem && html`<${ErrorNote} error=${problem} what=${`No ${noun}s are sent:`} />`}
    <div class="feed">
      <div class="feed-box" ref=${box} role="region" aria-label=${label} aria-describedby=${help} tabindex="0"
        onScroll=${onScroll(box, feed, scrolled, hold, follow)} onClick=${(event) => onClick(event, () => hold(false))}
        onKeyDown=${(event) => onKeyDown(event, box.current, () => hold(false), follow)}>
        ${total > shown.length && html`<p class="feed-earlier">
          <button type="button" class="quiet" onClick=${showEarlier}>Show earlier ${noun}s (${count(total - shown.length)})</button></p>`}
        ${children(shown)}
        ${total === 0 && html`<div class="feed-empty">${empty}</div>`}
      </div>
      <p class="visually-hidden" id=${help}>Arrow keys choose a row, Enter opens it, End follows what is new.</p>
      <div class="feed-foot">
        <button type="button" class=${feed.paused ? 'primary' : ''} onClick=${feed.paused ? follow : () => hold(false)}>
          ${feed.paused ? 'Follow' : 'Pause'}</button>
        <p class="feed-state">
          <span role="status">${feed.paused ? 'Paused' : 'Following'}</span>
          ${feed.waiting > 0 && html` · ${plural(feed.waiting, `new ${noun}`)}`}
          ${feed.overflowed > 0 && html` · ${count(feed.overflowed)} more are not kept`}
        </p>
        <p class="muted feed-count">${total === kept ? plural(kept, noun) : `${count(total)} of ${plural(kept, noun)}`}</p>
        <button type="button" class="quiet" onClick=${clear} disabled=${kept === 0}>Clear</button>
      </div>
    </div>`;
}

/** A row that tells that rows are missing. */
export function Marker({ row, noun }) {
  const text = row.number ? `${plural(row.number, noun)} not shown: ${row.marker}` : row.marker;
  return html`<span class="feed-marker">${text}</span>`;
}

function onScroll(box, feed, scrolled, hold, follow) {
  return () => {
    const { scrollHeight, scrollTop, clientHeight } = box.current;
    const atEnd = scrollHeight - scrollTop - clientHeight < NEAR;
    if (!feed.paused && !atEnd) hold(true);
    else if (feed.paused && scrolled.current && atEnd) follow();
  };
}

/** Opens the row that was clicked, unless the click ends a selection. What is opened must stay where it is. */
function onClick(event, hold) {
  if (event.target.closest('.row-toggle')) hold();
  else if (!event.target.closest('a, button, .row-details') && !String(getSelection())) {
    event.target.closest('[data-row]')?.querySelector('.row-toggle')?.click();
  }
}

function onKeyDown(event, box, hold, follow) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const toggles = [...box.querySelectorAll('.row-toggle')];
  const current = toggles.indexOf(document.activeElement);
  const bottom = box.getBoundingClientRect().bottom;
  const lastInSight = () => toggles.findLastIndex((each) => each.getBoundingClientRect().bottom <= bottom);
  const choose = (index) => {
    if (!toggles[index]) return;
    hold();
    toggles[index].focus();
  };
  const moves = {
    ArrowUp: () => choose(current < 0 ? lastInSight() : current - 1),
    ArrowDown: () => choose(current < 0 ? lastInSight() : current + 1),
    End: () => {
      follow();
      box.focus();
    },
    Escape: () => box.focus(),
  };
  if (!moves[event.key]) return;
  event.preventDefault();
  moves[event.key]();
}
