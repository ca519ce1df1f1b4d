import { describe, expect, it } from 'vitest';

import { ENDPOINTS, ENDPOINT_NAMES, pathOf, routeOf } from './endpoints.ts';

describe('routes', () => {
  it('lead from the path of every endpoint back to it', () => {
    const params = { run: 'r1', id: 'i1', reference: 'r2', profile: 'offline' };
    const routes = ENDPOINT_NAMES.map((name) => routeOf(ENDPOINTS[name].method, pathOf(name, params)));
    expect(routes.map((route) => (route.kind === 'found' ? route.name : route.kind))).toEqual(ENDPOINT_NAMES);
  });

  it.each([
    ['GET', '/v1/runs/a%2Fb', { kind: 'found', name: 'inspect', params: { run: 'a/b' } }],
    ['GET', '/v1/runs/%zz', { kind: 'unknown' }],
    ['GET', '/v1/runs/', { kind: 'unknown' }],
    ['GET', '/v1/runs/r1/', { kind: 'unknown' }],
    ['GET', '/v2/runs', { kind: 'unknown' }],
    ['GET', '/v1/../v1/runs', { kind: 'unknown' }],
    ['GET', 'v1/runs', { kind: 'unknown' }],
    ['DELETE', '/v1/runs', { kind: 'wrong-method', allowed: ['POST', 'GET'] }],
    ['GET', '/v1/gc', { kind: 'wrong-method', allowed: ['POST'] }],
  ])('take %s %s for what it is', (method, path, route) => {
    expect(routeOf(method, path)).toEqual(route);
  });
});
