import type { ServiceAnswer, ServiceReceiver, ServiceRequest } from './service-receiver.ts';
import { isObject, startService, unknownKey } from './service-receiver.ts';

/**
 * A stand-in for Slack's incoming webhooks with the limits of its documentation: 50 blocks, 3,000 characters in a section,
 * 150 in a header, 40,000 in `text`; the answer `ok`, or an error word. Beyond Slack it refuses control
 * sequences (`<!channel>`, `<@U…>`, `<https://…>`): no text of ours ever has one.
 */
const PATH = '/services/T00000000/B00000000/XXXXXXXXXXXXXXXXXXXXXXXX';
const KEYS = ['text', 'blocks', 'mrkdwn', 'parse', 'link_names', 'unfurl_links', 'unfurl_media'];

export type SlackReceiver = ServiceReceiver & { readonly url: string };

export async function startSlack(): Promise<SlackReceiver> {
  const service = await startService(judge);
  return { ...service, url: `http://127.0.0.1:${service.port}${PATH}` };
}

function judge(request: ServiceRequest): ServiceAnswer {
  if (request.path !== PATH) return { status: 404, body: 'no_service' };
  if (request.method !== 'POST' || request.headers['content-type'] !== 'application/json') {
    return { status: 400, body: 'invalid_payload' };
  }
  const problem = problemOf(request.json);
  return problem === null ? { status: 200, body: 'ok' } : { status: 400, body: problem };
}

function problemOf(message: unknown): string | null {
  if (!isObject(message)) return 'invalid_payload';
  if (unknownKey(message, KEYS) !== null) return `invalid_payload: ${unknownKey(message, KEYS)}`;
  const { text, blocks } = message;
  if (typeof text !== 'string' || text === '') return 'no_text';
  if (text.length > 40_000) return 'msg_too_long';
  if (hasControlSequence(text)) return 'control sequence in text';
  if (!Array.isArray(blocks) || blocks.length === 0 || blocks.length > 50) return 'invalid_blocks';
  for (const block of blocks as readonly unknown[]) {
    const problem = blockProblem(block);
    if (problem !== null) return `invalid_blocks: ${problem}`;
  }
  // Seen in practice, not documented: longer messages fail as a whole.
  return JSON.stringify(blocks).length > 13_000 ? 'invalid_blocks: too long' : null;
}

function blockProblem(block: unknown): string | null {
  if (!isObject(block)) return 'not an object';
  if (block['type'] === 'section') return unknownKey(block, ['type', 'text']) ?? textProblem(block['text'], 3_000);
  if (block['type'] === 'header') {
    const { text } = block;
    if (!isObject(text) || text['type'] !== 'plain_text') return 'a header is plain text';
    return unknownKey(block, ['type', 'text']) ?? textProblem(text, 150);
  }
  if (block['type'] !== 'context') return `type ${String(block['type'])}`;
  const { elements } = block;
  if (!Array.isArray(elements) || elements.length === 0 || elements.length > 10) return 'elements';
  for (const element of elements as readonly unknown[]) {
    const problem = textProblem(element, 3_000);
    if (problem !== null) return problem;
  }
  return unknownKey(block, ['type', 'elements']);
}

function textProblem(object: unknown, charsMax: number): string | null {
  if (!isObject(object)) return 'text is no object';
  const { type, text } = object;
  const known = type === 'mrkdwn' ? ['type', 'text', 'verbatim'] : ['type', 'text', 'emoji'];
  if (type !== 'mrkdwn' && type !== 'plain_text') return `text of type ${String(type)}`;
  if (typeof text !== 'string' || text.length === 0 || text.length > charsMax) return 'length of text';
  if (hasControlSequence(text)) return 'control sequence';
  return unknownKey(object, known);
}

/** What is not `&amp;`, `&lt;` or `&gt;` begins or ends something that Slack acts on. */
function hasControlSequence(text: string): boolean {
  return /[<>]|&(?!(?:amp|lt|gt);)/.test(text);
}
