import { describe, expect, test } from 'vitest';
import type { RequestRule } from './spec.ts';
import { parseRequestRule, REQUEST_CHARS_MAX, requestCovers } from './requests.ts';

describe('parseRequestRule takes', () => {
  test.each([
    ['GET /v1/*', 'GET', '/v1/', true],
    ['POST /v1/chat/completions', 'POST', '/v1/chat/completions', false],
    ['* /*', '*', '/', true],
    ['GET /', 'GET', '/', false],
    ['M-SEARCH /a%20b', 'M-SEARCH', '/a%20b', false],
    ['GET /v1*', 'GET', '/v1', true],
  ])('%s', (text, method, path, pathPrefix) => {
    expect(parseRequestRule(text)).toEqual({ ok: true, rule: { text, method, path, pathPrefix } });
  });
});

describe('parseRequestRule refuses', () => {
  test.each([
    ['', 'must not be empty'],
    ['GET', 'must be a method, one space and a path'],
    ['GET ', 'must be a method, one space and a path'],
    ['/v1', 'must be a method, one space and a path'],
    ['GET  /v1', 'must be a method, one space and a path'],
    ['GET /v1 HTTP/1.1', 'must be a method, one space and a path'],
    ['get /v1', 'must have a method in capitals, or * for every method'],
    ['GE* /v1', 'must have a method in capitals, or * for every method'],
    ['CONNECT /', 'must not be CONNECT, which is never passed on'],
    ['GET /v1?x=1', 'must have no question and no fragment: the path alone is compared'],
    ['GET /v1#x', 'must have no question and no fragment: the path alone is compared'],
    ['GET /*/x', 'must have its * at the end of the path only'],
    ['GET /v1/**', 'must have its * at the end of the path only'],
    ['GET *', 'must have a path that can be read in one way: it must start with a slash'],
    ['GET v1', 'must have a path that can be read in one way: it must start with a slash'],
    ['GET /a/../b', 'must have a path that can be read in one way: it must have no segment of dots'],
    ['GET /a//b', 'must have a path that can be read in one way: it must have no empty segment (two slashes in a row)'],
    ['GET /a%2fb', 'must have a path that can be read in one way: it must have no escaped slash or backslash'],
    ['GET /%61', 'must have its path in canonical form'],
    ['GET /%c3%a9', 'must have its path in canonical form'],
    [`GET /${'a'.repeat(REQUEST_CHARS_MAX)}`, `must be at most ${REQUEST_CHARS_MAX} characters long`],
  ])('%j', (text, rule) => {
    expect(parseRequestRule(text)).toMatchObject({ ok: false, rule });
  });
});

test.each([
  ['GET /v1/*', 'GET /v1/chat', true],
  ['GET /v1/*', 'GET /v1/chat/*', true],
  ['GET /v1/*', 'GET /v1', false],
  ['GET /v1/*', 'POST /v1/chat', false],
  ['* /v1/*', 'POST /v1/chat', true],
  ['GET /v1/*', '* /v1/chat', false],
  ['* /v1/chat', 'GET /v1/chat', true],
  ['* /v1/chat', 'GET /v1/chat*', false],
])('does %s cover %s: %s', (wide, narrow, expected) => {
  expect(requestCovers(ruleOf(wide), ruleOf(narrow))).toBe(expected);
});

function ruleOf(text: string): RequestRule {
  const parsed = parseRequestRule(text);
  if (!parsed.ok) throw new Error(parsed.rule);
  return parsed.rule;
}
