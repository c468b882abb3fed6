// Rows of the live tap, and which of them are wanted. Pure.
import { statusName } from './status.js';

/** A row of a WatchedCall's call. */
export function makeCallRow({ plugin, instance, call }) {
  const status = statusName(call.status);
  const caller = call.forwarded_for || call.peer;
  return {
    time: call.time,
    plugin,
    instance,
    method: call.method,
    status,
    failed: call.status !== 0,
    message: call.message,
    seconds: call.seconds,
    peer: call.peer,
    caller,
    forwarded: Boolean(call.forwarded_for),
    received: call.received,
    sent: call.sent,
    traceId: call.trace_id,
    search: [plugin, call.method, status, call.message, caller, call.trace_id].join('\n').toLowerCase(),
  };
}

/** A method with its service's package left out: "EchoService/Echo" of "pkg.v1.EchoService/Echo". */
export function shortMethod(method) {
  const [service, ...rest] = method.split('/');
  return [service.slice(service.lastIndexOf('.') + 1), ...rest].join('/');
}

/** Seconds of a text such as "250 ms", "0.25", "1.5s"; 0 for none, NaN if it is not one. */
export function parseSeconds(text) {
  const match = /^\s*(\d+(?:[.,]\d+)?|[.,]\d+)?\s*(us|µs|ms|s|)\s*$/i.exec(text);
  if (!match) return NaN;
  if (match[1] === undefined) return match[2] ? NaN : 0;
  const scale = { us: 1e-6, µs: 1e-6, ms: 1e-3 }[match[2].toLowerCase()] ?? 1;
  return Number(match[1].replace(',', '.')) * scale;
}
