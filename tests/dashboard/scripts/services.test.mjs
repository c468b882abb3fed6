import assert from 'node:assert/strict';
import { test } from 'node:test';
import { buildServices, prettyJson, toneOfEndpoint } from '../static/model/services.js';

const endpoint = (id, fields = {}) => ({ id, address: `unix:/run/${id}`, instance: 0, pid: 7, weight: 1, priority: 0, node: '', gateway: false, ...fields });
const state = (service, endpoints, fields = {}) => ({ service, endpoints, departures: [], service_config: '', unattended: false, on_demand: false, ...fields });
const known = (id, fields = {}) => ({
  endpoint_id: id, address: `unix:/run/${id}`, connectivity: 'ready', available: true, in_flight: 1, weight: 1, priority: 0, healthy: true,
  failed_connects: 0, connect_error: '', retries: 2, ejections: 0, ...fields,
});
const channel = (service, endpoints, fields = {}) => ({ service, own_endpoints_only: false, policy: 'round_robin', waiting: 0, endpoints, ...fields });
const conditions = (...args) => buildServices(...args).map(({ condition: [word] }) => word);

test('whether a service can be called', () => {
  const ejected = known('b', { available: false, ejection: { since: 1, until: 9, rule: 'success_rate' } });
  assert.deepEqual(conditions({
    states: [
      state('free', [endpoint('x')]), state('none', []), state('idle', [], { on_demand: true }), state('odd', [], { unattended: true }),
      state('well', [endpoint('a')]), state('half', [endpoint('a'), endpoint('b')]), state('out', [endpoint('b')]),
    ],
    balancing: [channel('well', [known('a')]), channel('half', [known('a'), ejected]), channel('out', [ejected])],
  }), ['available', 'no endpoints', 'idle', 'unmanaged', 'available', 'degraded', 'unavailable']);
});

test('channels are added up, and the worst tells the condition', () => {
  const [service] = buildServices({
    states: [state('s', [endpoint('a')])],
    balancing: [
      channel('s', [known('a')], { waiting: 2 }),
      channel('s', [known('a', { connectivity: 'transient-failure', available: false, connect_error: 'refused', failed_connects: 3 })], { own_endpoints_only: true, policy: 'pick_first' }),
    ],
  });
  const [each] = service.endpoints;
  assert.deepEqual([each.condition, each.inFlight, each.retries, each.failedConnects, each.connectError], ['transient-failure', 2, 4, 3, 'refused']);
  assert.deepEqual([service.waiting, service.inFlight, service.retries, service.policy], [2, 2, 4, 'round_robin, pick_first']);
});

test('what was never called has no numbers', () => {
  const [service] = buildServices({ states: [state('s', [endpoint('a')])] });
  assert.equal(service.endpoints[0].condition, 'not called');
  assert.deepEqual([service.inFlight, service.waiting, service.retries, service.ejected], [undefined, undefined, undefined, 0]);
});

test('an endpoint that is gone but has calls is listed', () => {
  const [service] = buildServices({ states: [state('s', [])], balancing: [channel('s', [known('old')])] });
  assert.deepEqual(service.endpoints.map(({ id, gone, inFlight }) => [id, gone, inFlight]), [['old', true, 1]]);
  assert.equal(service.condition[0], 'no endpoints');
});

test('conditions of endpoints', () => {
  const of = (fields) => buildServices({ states: [state('s', [endpoint('a')])], balancing: [channel('s', [known('a', fields)])] })[0].endpoints[0].condition;
  assert.equal(of({ connectivity: 'connecting', available: false }), 'connecting');
  assert.equal(of({ healthy: false, available: false }), 'unhealthy');
  assert.equal(of({ available: false }), 'unavailable');
  assert.equal(of({}), 'ready');
  assert.deepEqual(['ready', 'ejected', 'newer'].map(toneOfEndpoint), ['good', 'bad', 'info']);
});

test('JSON is indented if it is any', () => {
  assert.equal(prettyJson('{"a":1}'), '{\n  "a": 1\n}');
  assert.equal(prettyJson('{"a'), '{"a');
});
