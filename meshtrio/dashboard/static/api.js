// Requests to the mesh.

/** Why a request failed: `code` is a gRPC status name, or NETWORK if the mesh cannot be reached. */
export class ApiError extends Error {
  constructor(status, code, text) {
    super(text);
    Object.assign(this, { name: 'ApiError', status, code, text });
  }
}

/** A reply of the mesh's Control: getJson('history', {names: 'echo', since: 0}). Raises ApiError. */
export function getJson(name, params = {}, { signal } = {}) {
  const kept = Object.entries(params).filter(([, value]) => value !== '' && value != null);
  const query = new URLSearchParams(kept).toString();
  return request(`/api/${name}${query ? `?${query}` : ''}`, { signal });
}

/** Has the mesh do something: act('restart', {name: 'echo'}). Returns its reply. Raises ApiError. */
export function act(action, body) {
  return request(`/api/actions/${action}`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify(body),
  });
}

async function request(url, options) {
  let response;
  try {
    response = await fetch(url, { credentials: 'same-origin', ...options });
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    throw new ApiError(0, 'NETWORK', 'the mesh cannot be reached');
  }
  // Errors that are not from the API, such as of a proxy, need not be JSON.
  const reply = await response.json().catch(() => null);
  if (response.ok && reply !== null) return reply;
  const text = reply?.text ?? `the mesh answered with HTTP status ${response.status}`;
  throw new ApiError(response.status, reply?.code ?? 'UNKNOWN', text);
}
