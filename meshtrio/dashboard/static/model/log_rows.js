// Rows of the log: lines as they are read, with those of a traceback folded into one row. Pure.

export const LEVELS = ['DEBUG', 'INFO', 'WARNING', 'ERROR', 'CRITICAL'];

const MAX_FOLDED = 500; // Lines of one row.
const MAX_OPEN = 1000; // Rows that can take more lines, one of each source.
const MAX_PAUSE = 2; // Seconds between lines that are of one traceback.

/** What writes lines in their order. */
export const sourceOf = ({ plugin, instance, pid, stream }) => `${plugin}/${instance}/${pid}/${stream}`;

// How tracebacks begin, of Python (also as an exception group) and Rust.
const TRACEBACK = /^[\s+|]*(?:Exception Group )?Traceback \(most recent call last\):|^stack backtrace:/;
const GROUP = /^[\s|]*\+ Exception Group Traceback /;
// The margin that Python draws around exception groups, before a line that is not indented in it.
const MARGIN = /^\s*(?:\|\s)+(?=[^\s|+])/;
// After this, Go prints nothing but stacks until its process ends.
const STACKS = /^goroutine \d+ \[/;
// A line that a traceback may belong to; any other one only happens to be before it.
const ANNOUNCES = /error|exception|critical|fatal|fail|panic|warn/i;
// What stands between exceptions that follow from each other.
const CHAINED = /^\s*\|?\s*(?:During handling of the above exception|The above exception was the direct cause)/;
const INDENTED = /^(?:\s+\S|\s*[|+])/;
// Go, Java and JavaScript begin with the error itself.
const CONTINUES = /^(?:\s+at |\s+\.\.\. \d+ |Caused by: |\t)/;

/**
 * Makes rows of log lines: `add(line)` returns the line's row, or null if the line was folded into the
 * row of before it.
 *
 * A row has the fields of `makeRow`. `folded` are the lines that belong to its first one, such as a traceback;
 * `version` grows when one is added to them.
 */
export class LogRows {
  #open = new Map(); // The row that a line may belong to, by where it comes from.

  add(line) {
    const source = sourceOf(line);
    const open = this.#open.get(source);
    if (open && line.message === undefined && line.time - open.last <= MAX_PAUSE && fold(open, line)) return null;
    const row = makeRow(line);
    this.#open.delete(source); // So that the map is in the order of the latest rows.
    this.#open.set(source, { row, last: line.time, state: firstState(row.text) });
    if (this.#open.size > MAX_OPEN) this.#open.delete(this.#open.keys().next().value);
    return row;
  }

  /** Takes no more lines into the rows of before, such as when lines are missing. */
  reset() {
    this.#open.clear();
  }
}

/** Adds the line to the open row if it is of the same traceback. */
function fold(open, { time, text }) {
  const { row } = open;
  if (row.folded.length >= MAX_FOLDED || row.structured) return false;
  const next = nextState(open.state, text, row.text);
  if (!next) return false;
  // The exception that a traceback ends with; of chained ones the last.
  if (next === 'ended' && open.state === 'inside') row.summary = text.trim();
  if (next === 'group' && MARGIN.test(text) && !TRACEBACK.test(text)) row.summary = text.replace(MARGIN, '').trim();
  row.traceback ||= next !== 'after';
  open.state = next;
  open.last = time;
  row.folded.push(text);
  row.version += 1;
  row.search += `\n${text.toLowerCase()}`;
  row.size += text.length;
  return true;
}

function firstState(text) {
  if (GROUP.test(text)) return 'group';
  if (TRACEBACK.test(text)) return 'inside';
  return STACKS.test(text) ? 'stacks' : 'after';
}

/**
 * What follows a line of a row: `inside` a traceback, `ended` after its exception, `between` chained ones,
 * in the frame of an exception `group`, `stacks` of Go, `after` an ordinary line. Null if the line is of another row.
 */
function nextState(state, text, first) {
  const blank = text.trim() === '';
  if (state === 'stacks') return state;
  if (state === 'group') return blank || INDENTED.test(text) ? state : null;
  if (state === 'inside') return blank || TRACEBACK.test(text) || INDENTED.test(text) ? state : 'ended';
  if (state === 'between') return TRACEBACK.test(text) ? firstState(text) : blank ? state : null;
  if (state === 'ended') {
    if (CHAINED.test(text)) return 'between';
    return blank || INDENTED.test(text) ? state : null;
  }
  if (CONTINUES.test(text)) return state;
  return ANNOUNCES.test(first) && TRACEBACK.test(text) ? firstState(text) : null;
}

function makeRow(line) {
  const structured = line.message !== undefined;
  const text = structured ? line.message : line.text;
  const lines = text.split('\n');
  const exception = line.exception ? line.exception.replace(/\n+$/, '').split('\n') : [];
  return {
    time: line.time,
    plugin: line.plugin,
    instance: line.instance,
    pid: line.pid,
    stream: line.stream,
    level: line.level,
    text: lines[0],
    folded: [...lines.slice(1), ...exception],
    traceback: exception.length > 0 || firstState(lines[0]) !== 'after',
    // What a traceback says in the end.
    summary: exception.length ? lastWords(exception) : '',
    logger: line.logger,
    traceId: line.trace_id,
    spanId: line.span_id,
    structured,
    raw: line.text,
    version: 0,
    search: `${line.text}\n${structured ? text : ''}`.toLowerCase(),
    size: line.text.length,
  };
}

const lastWords = (lines) => lines.findLast((each) => /\w/.test(each))?.trim() ?? '';

// The names that the mesh takes what it sends separately from; as in meshtrio/supervisor/log_line.py.
const KNOWN = new Set([
  'level', 'levelname', 'severity', 'lvl', 'message', 'msg', 'event', 'logger', 'logger_name', 'loggerName', 'trace_id', 'traceId',
  'trace.id', 'otelTraceID', 'span_id', 'spanId', 'span.id', 'otelSpanID', 'exception', 'exc_info', 'stack_trace', 'stacktrace',
  'time', 'timestamp', 'ts', '@timestamp', 'asctime',
]);

/** The other fields of a line of JSON, as pairs of name and text; none of plain text. */
export function fieldsOf({ structured, raw, text }) {
  if (!structured) return [];
  let object;
  try {
    object = JSON.parse(raw);
  } catch {
    return []; // Cut since it was too long.
  }
  if (typeof object !== 'object' || object === null || Array.isArray(object)) return [];
  return Object.entries(object)
    .filter(([name, value]) => !(KNOWN.has(name) && (typeof value !== 'object' || value === null)) && value !== text)
    .map(([name, value]) => [name, typeof value === 'string' ? value : JSON.stringify(value)]);
}

/** Whether a level is at least the wanted one, "" for all. A level of a newer mesh is. */
export function isAtLeast(level, wanted) {
  return !LEVELS.includes(level) || LEVELS.indexOf(level) >= LEVELS.indexOf(wanted);
}
