// Services with what the mesh's channels know of their endpoints. Pure.

const sum = (numbers) => numbers.reduce((total, each) => total + each, 0);

/** Rows of the reply of ListServiceStates, by name. */
export function buildServices({ states, balancing = [] }) {
  return states.map((state) => {
    const channels = balancing.filter(({ service }) => service === state.service);
    const endpoints = joinEndpoints(state.endpoints, channels);
    return {
      name: state.service,
      state,
      channels,
      endpoints,
      condition: conditionOf(state, endpoints),
      policy: [...new Set(channels.map(({ policy }) => policy))].join(', '),
      waiting: channels.length ? sum(channels.map(({ waiting }) => waiting)) : undefined,
      inFlight: total(endpoints, 'inFlight'),
      ejected: endpoints.filter(({ ejection }) => ejection).length,
      ejections: total(endpoints, 'ejections'),
      retries: total(endpoints, 'retries'),
    };
  });
}

function total(endpoints, name) {
  const known = endpoints.map((each) => each[name]).filter((each) => each !== undefined);
  return known.length ? sum(known) : undefined;
}

/**
 * Endpoints with what each channel knows of them added up. Those that only a channel has still, since it has calls
 * there, are among them.
 */
function joinEndpoints(endpoints, channels) {
  const known = new Map();
  for (const each of channels.flatMap((channel) => channel.endpoints)) {
    known.set(each.endpoint_id, [...(known.get(each.endpoint_id) ?? []), each]);
  }
  const gone = [...known].filter(([id]) => !endpoints.some((each) => each.id === id))
    .map(([id, [{ address, weight, priority }]]) => ({ id, address, weight, priority, gone: true }));
  return [...endpoints, ...gone].map((endpoint) => ({ ...endpoint, ...balanced(known.get(endpoint.id) ?? []) }));
}

function balanced(states) {
  if (!states.length) return { condition: 'not called' };
  const first = (test) => states.find(test);
  const ejection = first((each) => each.ejection)?.ejection;
  const unavailable = first((each) => !each.available);
  return {
    // Of several channels, the one that is worst off.
    condition: conditionOfEndpoint(first((each) => each.ejection) ?? unavailable ?? states[0]),
    ejection,
    available: !unavailable,
    inFlight: sum(states.map((each) => each.in_flight)),
    retries: sum(states.map((each) => each.retries)),
    ejections: sum(states.map((each) => each.ejections)),
    failedConnects: sum(states.map((each) => each.failed_connects)),
    connectError: states.map((each) => each.connect_error).find(Boolean) ?? '',
    weight: Math.max(...states.map((each) => each.weight)),
    priority: Math.min(...states.map((each) => each.priority)),
  };
}

function conditionOfEndpoint({ ejection, connectivity, healthy, available }) {
  if (ejection) return 'ejected';
  if (connectivity !== 'ready') return connectivity;
  if (!healthy) return 'unhealthy';
  return available ? 'ready' : 'unavailable';
}

const ENDPOINT_TONES = {
  ready: 'good', 'not called': 'off', idle: 'off', connecting: 'busy', ejected: 'bad', unhealthy: 'warn', unavailable: 'warn', 'transient-failure': 'bad',
};

/** The tone of an endpoint's condition; of one that a newer mesh has it is `info`. */
export const toneOfEndpoint = (condition) => ENDPOINT_TONES[condition] ?? 'info';

/** Whether a service can be called, in one word, and its tone. */
function conditionOf(state, endpoints) {
  const own = endpoints.filter(({ gone }) => !gone);
  if (!own.length) {
    if (state.on_demand) return ['idle', 'off'];
    return state.unattended ? ['unmanaged', 'off'] : ['no endpoints', 'bad'];
  }
  // What no channel knows of is taken to be available.
  const available = own.filter((each) => each.available !== false).length;
  if (available === own.length) return ['available', 'good'];
  return available ? ['degraded', 'warn'] : ['unavailable', 'bad'];
}

/** JSON with indentation; what is no JSON stays as it is. */
export function prettyJson(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}
