import { describe, expect, test } from 'vitest';
import { parseRequestRule } from '../profile/requests.ts';
import type { RequestRule } from '../profile/spec.ts';
import { requestVerdict } from './requests.ts';

const rules = (...texts: readonly string[]): readonly RequestRule[] =>
  texts.map((text) => {
    const parsed = parseRequestRule(text);
    if (!parsed.ok) throw new Error(parsed.rule);
    return parsed.rule;
  });
const LISTED = rules('GET /v1/*', 'POST /v1/chat', '* /any');

describe('a listed request passes in the form that was judged', () => {
  test.each([
    ['GET', '/v1/', 'GET /v1/*', '/v1/'],
    ['GET', '/v1/models?limit=1&a=/../b', 'GET /v1/*', '/v1/models?limit=1&a=/../b'],
    ['GET', '/%76%31/models?x=%2e%2e', 'GET /v1/*', '/v1/models?x=%2e%2e'],
    ['POST', '/v1/chat', 'POST /v1/chat', '/v1/chat'],
    ['DELETE', '/any', '* /any', '/any'],
    ['PROPFIND', '/any?', '* /any', '/any?'],
  ])('%s %s', (method, target, text, sent) => {
    const verdict = requestVerdict(LISTED, { method, target });
    const rule = LISTED.find((each) => each.text === text);
    expect(verdict).toEqual({ kind: 'allow', rule, target: sent });
  });

  test('every request, as it came, where nothing is listed', () => {
    expect(requestVerdict([], { method: 'DELETE', target: '/a//b/../%2f?x' })).toEqual({
      kind: 'allow',
      rule: null,
      target: '/a//b/../%2f?x',
    });
  });
});

describe('everything else is refused, with the line that would let it pass', () => {
  test.each([
    ['POST', '/v1/models', 'POST /v1/models is in no line of requests', 'POST /v1/models'],
    ['GET', '/v1', 'GET /v1 is in no line of requests', 'GET /v1'],
    ['GET', '/v2/models?key=1', 'GET /v2/models is in no line of requests', 'GET /v2/models'],
    ['GET', '/V1/models', 'GET /V1/models is in no line of requests', 'GET /V1/models'],
    ['POST', '/v1/chat/', 'POST /v1/chat/ is in no line of requests', 'POST /v1/chat/'],
    ['HEAD', '/v1/models', 'HEAD /v1/models is in no line of requests', 'HEAD /v1/models'],
    ['GET', '/any*', 'GET /any* is in no line of requests', null],
    ['GET', '/v1/../admin', 'the path must have no segment of dots', null],
    ['GET', '/v1/%2e%2e/admin', 'the path must have no escaped dot', null],
    ['GET', '*', 'the target must be a path', null],
    ['GET', 'http://a.example/v1/x', 'the target must be a path', null],
    ['GET', '/v1/#x', 'the target must have no fragment', null],
    ['get', '/v1/', 'the method must be in capitals', null],
    ['CONNECT', 'a.example:443', 'CONNECT is never passed on', null],
    ['GET', `/v1/?${'x'.repeat(16_384)}`, 'the target has more than 16384 characters', null],
  ])('%s %s', (method, target, explanation, line) => {
    expect(requestVerdict(LISTED, { method, target })).toEqual({ kind: 'deny', explanation, line });
  });

  test.each([
    ['CONNECT', 'a.example:443'],
    ['OPTIONS', '*'],
    ['GET', 'http://b.example/'],
  ])('%s %s also where nothing is listed', (method, target) => {
    expect(requestVerdict([], { method, target }).kind).toBe('deny');
  });
});
