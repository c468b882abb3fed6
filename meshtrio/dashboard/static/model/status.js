// The status codes of gRPC. Pure.

export const STATUS_NAMES = [
  'OK', 'CANCELLED', 'UNKNOWN', 'INVALID_ARGUMENT', 'DEADLINE_EXCEEDED', 'NOT_FOUND', 'ALREADY_EXISTS', 'PERMISSION_DENIED',
  'RESOURCE_EXHAUSTED', 'FAILED_PRECONDITION', 'ABORTED', 'OUT_OF_RANGE', 'UNIMPLEMENTED', 'INTERNAL', 'UNAVAILABLE', 'DATA_LOSS',
  'UNAUTHENTICATED',
];

/** The name of a status by its number; a number that gRPC does not have is shown as it is. */
export const statusName = (code) => STATUS_NAMES[code] ?? `status ${code}`;

// What tells more of the caller than of the server.
const OF_CALLER = new Set([
  'INVALID_ARGUMENT', 'NOT_FOUND', 'ALREADY_EXISTS', 'PERMISSION_DENIED', 'FAILED_PRECONDITION', 'ABORTED', 'OUT_OF_RANGE', 'UNAUTHENTICATED',
]);

/** The tone of a status, by its name. */
export function toneOfStatus(name) {
  if (name === 'OK') return 'good';
  if (name === 'CANCELLED') return 'off';
  return OF_CALLER.has(name) ? 'warn' : 'bad';
}
