// Draws rows of the timeline on canvases.
import { gapsOf, phasesOf } from '../model/lives.js';
import { tickLabel, ticks } from '../model/time_axis.js';

export const AXIS_HEIGHT = 26;
const LANE = 14;
const PADDING = 7;
const READY_OPACITY = 0.5; // As in timeline.css.

/** The height of a row in pixels. */
export function rowHeight({ lanes }) {
  return 2 * PADDING + LANE * (Math.min(Math.max(...lanes), 3) + 1);
}

/** Colours and font from the stylesheet: a canvas has no CSS. */
export function readTheme(element) {
  const style = getComputedStyle(element);
  const color = (name) => style.getPropertyValue(`--${name}`).trim();
  const names = ['bg', 'text', 'muted', 'line', 'surface', 'accent', 'accent-soft', 'good', 'busy', 'warn', 'bad', 'off', 'info'];
  return { ...Object.fromEntries(names.map((name) => [name, color(name)])), font: `12px ${color('sans')}` };
}

/** Makes the canvas fit, and returns its context, cleared, in CSS pixels. */
export function prepare(canvas, width, height) {
  const ratio = devicePixelRatio || 1;
  const [w, h] = [Math.round(width * ratio), Math.round(height * ratio)];
  if (canvas.width !== w || canvas.height !== h) Object.assign(canvas, { width: w, height: h });
  const context = canvas.getContext('2d');
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  return context;
}

const PHASE_COLORS = { starting: 'busy', running: 'busy', ready: 'good', unready: 'warn', draining: 'info' };
const GAP_COLORS = { backoff: 'warn', failed: 'bad', pending: 'busy' };

/** `view` is `{from, to, now, width, oldest}`; before `oldest` nothing is known. */
export function drawRow(canvas, row, view, theme, selectedId) {
  const height = rowHeight(row);
  const context = prepare(canvas, view.width, height);
  const x = (when) => ((when - view.from) / (view.to - view.from)) * view.width;
  if (view.oldest > view.from) drawUnknown(context, x(view.oldest), height, theme);
  drawGrid(context, view, theme, x, height);
  for (const gap of gapsOf(row, view.now)) drawGap(context, gap, row, view, theme, x);
  row.lives.forEach((life, index) => {
    if ((life.ended ?? view.now) < view.from || life.started > view.to) return;
    drawLife(context, life, laneTop(row.lanes[index]), view, theme, x, life.id === selectedId);
  });
}

const laneTop = (lane) => PADDING + Math.min(lane, 3) * LANE;

// The time before the history begins.
function drawUnknown(context, right, height, theme) {
  context.fillStyle = theme.bg;
  context.fillRect(0, 0, right, height);
}

function drawGrid(context, view, theme, x, height) {
  context.fillStyle = theme.line;
  for (const when of ticks(view.from, view.to, gapOf(view)).times) context.fillRect(Math.round(x(when)), 0, 1, height);
}

const gapOf = ({ from, to, width }) => ((to - from) / width) * 80;

function drawGap(context, { state, from, to, after }, row, view, theme, x) {
  if (to < view.from || from > view.to) return;
  const y = laneTop(row.lanes[row.lives.indexOf(after)]) + LANE / 2 - 1;
  context.strokeStyle = theme[GAP_COLORS[state] ?? 'off'];
  context.lineWidth = 2;
  context.setLineDash(state === 'failed' ? [] : state === 'backoff' || state === 'pending' ? [3, 3] : [1, 4]);
  context.beginPath();
  context.moveTo(Math.max(x(from), -9), y);
  context.lineTo(Math.min(x(to), view.width + 9), y);
  context.stroke();
  context.setLineDash([]);
}

function drawLife(context, life, top, view, theme, x, selected) {
  const bar = LANE - 2;
  for (const { phase, from, to } of phasesOf(life, view.now)) {
    const left = Math.max(x(from), -2);
    const width = Math.max(Math.min(x(to), view.width + 2) - left, 2); // Even the shortest is seen.
    // What is as it should be is pale, so that trouble stands out.
    context.fillStyle = theme.surface;
    context.fillRect(left, top, width, bar);
    context.fillStyle = theme[PHASE_COLORS[phase]];
    context.globalAlpha = phase === 'ready' ? READY_OPACITY : 0.92;
    context.fillRect(left, top, width, bar);
    context.globalAlpha = 1;
    if (phase !== 'ready') drawTexture(context, phase, left, top, width, bar, theme);
  }
  if (['restart', 'renewal', 'group-restart', 'retry'].includes(life.follows)) drawStart(context, life, x(life.started), top, theme);
  if (life.ended != null) drawEnd(context, life, x(life.ended), top, bar, theme);
  if (selected) drawSelection(context, x(life.started), x(life.ended ?? view.now), top, bar, view, theme);
}

// Phases differ by texture as well as by colour: upright lines while starting, a cut while draining,
// slanted lines while not ready.
function drawTexture(context, phase, left, top, width, height, theme) {
  if (phase === 'running' || width < 4) return;
  context.save();
  context.beginPath();
  context.rect(left, top, width, height);
  context.clip();
  context.strokeStyle = theme.surface;
  context.globalAlpha = 0.55;
  context.lineWidth = 1.5;
  context.beginPath();
  const slant = { starting: 0, unready: height, draining: -height }[phase];
  for (let at = left - height; at < left + width + height; at += 6) {
    context.moveTo(at, top + height);
    context.lineTo(at + slant, top);
  }
  context.stroke();
  context.restore();
}

function drawStart(context, { follows }, at, top, theme) {
  context.fillStyle = follows === 'renewal' ? theme.accent : theme.warn;
  context.beginPath();
  context.moveTo(at - 4, top - 5);
  context.lineTo(at + 4, top - 5);
  context.lineTo(at, top);
  context.fill();
}

function drawEnd(context, { outcome }, at, top, bar, theme) {
  const bad = outcome === 'failed' || outcome === 'not-started';
  context.fillStyle = bad ? theme.bad : theme.off;
  context.fillRect(at - 1, top - 2, bad ? 3 : 2, bar + 4);
  if (!bad) return;
  context.strokeStyle = theme.bad;
  context.lineWidth = 2;
  context.beginPath();
  for (const slope of [1, -1]) {
    context.moveTo(at - 3.5, top + bar / 2 - 3.5 * slope);
    context.lineTo(at + 4.5, top + bar / 2 + 3.5 * slope);
  }
  context.stroke();
}

function drawSelection(context, left, right, top, bar, view, theme) {
  context.strokeStyle = theme.text;
  context.lineWidth = 2;
  const from = Math.max(left, 1) - 2;
  context.strokeRect(from, top - 2, Math.max(Math.min(right, view.width - 1) + 2 - from, 6), bar + 4);
}

/** The axis with its labels. */
export function drawAxis(canvas, view, theme) {
  const context = prepare(canvas, view.width, AXIS_HEIGHT);
  const { step, times } = ticks(view.from, view.to, gapOf(view));
  Object.assign(context, { font: theme.font, textBaseline: 'middle', textAlign: 'left' });
  for (const when of times) {
    const at = Math.round(((when - view.from) / (view.to - view.from)) * view.width);
    context.fillStyle = theme.line;
    context.fillRect(at, 6, 1, AXIS_HEIGHT);
    context.fillStyle = theme.muted;
    context.fillText(tickLabel(when, step), at + 5, AXIS_HEIGHT / 2);
  }
}

/** The life at a point of a row, null if there is none. */
export function lifeAt(row, view, x, y) {
  const when = view.from + (x / view.width) * (view.to - view.from);
  const slack = (4 / view.width) * (view.to - view.from);
  const lane = Math.floor((y - PADDING) / LANE);
  const hits = row.lives.filter((life) => life.started - slack <= when && when <= (life.ended ?? view.now) + slack);
  return hits.findLast((life) => row.lanes[row.lives.indexOf(life)] === lane) ?? hits.at(-1) ?? null;
}
