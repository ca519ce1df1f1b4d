import type { IncomingMessage } from 'node:http';
import type { z } from 'zod';

import { fail, type Problem } from '../core/errors.ts';
import { printable } from '../core/text.ts';
import { REQUESTS, type RequestOf } from './contract.ts';
import { JSON_TYPE, routeOf, type EndpointName } from './endpoints.ts';

export const BODY_BYTES_MAX = 2 * 1024 * 1024;
const BODY_DEPTH_MAX = 16;
const QUERY_CHARS_MAX = 2048;
const PROBLEMS_MAX = 16;

/** A request that passed the contract, tagged with its endpoint. */
export type CheckedRequest = {
  readonly [Name in EndpointName]: { readonly name: Name } & RequestOf<Name>;
}[EndpointName];

/** Reads and checks a whole request. Throws REQUEST_INVALID with every problem found. */
export async function checkRequest(request: IncomingMessage): Promise<CheckedRequest> {
  const url = request.url ?? '/';
  const questionMark = url.indexOf('?');
  const path = questionMark === -1 ? url : url.slice(0, questionMark);
  const route = routeOf(request.method ?? '', path);
  if (route.kind === 'unknown') {
    throw fail('REQUEST_INVALID', { detail: `no such endpoint: ${printable(`${request.method} ${path}`)}` });
  }
  if (route.kind === 'wrong-method') {
    throw fail('REQUEST_INVALID', {
      detail: `${printable(path)} takes ${route.allowed.join(' or ')}, got ${printable(request.method ?? '')}`,
    });
  }
  const schemas = REQUESTS[route.name];
  const query = queryOf(questionMark === -1 ? '' : url.slice(questionMark + 1));
  const body = schemas.body === null ? await refuseBody(request) : await readJson(request);
  const checked = {
    name: route.name,
    params: parse(schemas.params, route.params, null),
    query: parse(schemas.query, query, 'query'),
    body: schemas.body === null ? null : parse(schemas.body, body, 'body'),
  };
  // The schemas of this endpoint have just made it so; TypeScript does not follow a union through a table.
  return checked as unknown as CheckedRequest;
}

function parse(schema: z.ZodType, value: unknown, place: 'query' | 'body' | null): unknown {
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  const problems = result.error.issues.slice(0, PROBLEMS_MAX).map((issue): Problem => ({
    file: 'request',
    line: 0,
    column: 0,
    path: printable([...(place === null ? [] : [place]), ...issue.path.map(String)].join('.')),
    message: printable(issue.message),
    hint: null,
  }));
  const first = problems[0];
  throw fail('REQUEST_INVALID', { detail: `${first?.path ?? 'request'}: ${first?.message ?? 'invalid'}`, problems });
}

function queryOf(text: string): Record<string, string> {
  if (text.length > QUERY_CHARS_MAX) throw fail('REQUEST_INVALID', { detail: 'the query is too long' });
  const query: Record<string, string> = {};
  for (const [key, value] of new URLSearchParams(text)) {
    if (Object.hasOwn(query, key)) throw fail('REQUEST_INVALID', { detail: `query.${printable(key)}: given twice` });
    query[key] = value;
  }
  return query;
}

async function refuseBody(request: IncomingMessage): Promise<null> {
  const length = request.headers['content-length'];
  if (request.headers['transfer-encoding'] === undefined && (length === undefined || length === '0')) return null;
  throw fail('REQUEST_INVALID', { detail: 'this endpoint takes no body' });
}

async function readJson(request: IncomingMessage): Promise<unknown> {
  const type = (request.headers['content-type'] ?? '').split(';')[0]?.trim().toLowerCase();
  if (type !== JSON_TYPE) {
    throw fail('REQUEST_INVALID', { detail: `the body must be ${JSON_TYPE}, got ${printable(type || 'no type')}` });
  }
  if (request.headers['content-encoding'] !== undefined) {
    throw fail('REQUEST_INVALID', { detail: 'the body must not be compressed' });
  }
  if (Number(request.headers['content-length'] ?? 0) > BODY_BYTES_MAX) throw bodyTooLarge();
  const chunks: Buffer[] = [];
  let bytes = 0;
  for await (const chunk of request as AsyncIterable<Buffer>) {
    bytes += chunk.length;
    if (bytes > BODY_BYTES_MAX) throw bodyTooLarge();
    chunks.push(chunk);
  }
  return parseJson(Buffer.concat(chunks));
}

function bodyTooLarge(): Error {
  return fail('REQUEST_INVALID', { detail: `the body is larger than ${BODY_BYTES_MAX} bytes` });
}

/** UTF-8 JSON, nested at most 16 deep: deeper than any request is, and shallower than any parser minds. */
function parseJson(bytes: Uint8Array): unknown {
  let text: string;
  try {
    text = new TextDecoder('utf-8', { fatal: true }).decode(bytes);
  } catch (cause) {
    throw fail('REQUEST_INVALID', { detail: 'the body is not UTF-8' }, { cause });
  }
  if (jsonDepth(text) > BODY_DEPTH_MAX) {
    throw fail('REQUEST_INVALID', { detail: `the body is nested deeper than ${BODY_DEPTH_MAX}` });
  }
  try {
    return JSON.parse(text) as unknown;
  } catch (cause) {
    throw fail('REQUEST_INVALID', { detail: 'the body is not JSON' }, { cause });
  }
}

function jsonDepth(text: string): number {
  let depth = 0;
  let deepest = 0;
  let inString = false;
  for (let index = 0; index < text.length; index += 1) {
    const char = text[index];
    if (inString) {
      if (char === '\\') index += 1;
      else if (char === '"') inString = false;
    } else if (char === '"') inString = true;
    else if (char === '{' || char === '[') {
      depth += 1;
      if (depth > deepest) deepest = depth;
    } else if (char === '}' || char === ']') depth -= 1;
  }
  return deepest;
}
