import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import type { CheckVerdict } from '../checker/messages.ts';
import { until } from '../../test/support/until.ts';
import { linkChecker } from './checker-link.ts';
import type { CheckerLinkParts } from './checker-link.ts';

const folder = mkdtempSync(join(tmpdir(), 'ringfence-link-'));
afterAll(() => rmSync(folder, { recursive: true }));

/** A program in the place of the checker: it does what the test writes for each message, and ends with its parent. */
function program(name: string, body: string): string {
  const path = join(folder, `${name}.mjs`);
  const text = `process.on('disconnect', () => process.exit(0));
    const tell = (report) => process.send(report);
    process.on('message', (message) => { ${body} });`;
  writeFileSync(path, text);
  return path;
}

function linkTo(more: Partial<CheckerLinkParts>) {
  const heard: unknown[] = [];
  const link = linkChecker({
    check: () => Promise.reject(new Error('nobody judges')),
    onDenied: (report) => heard.push(report),
    onPassed: (report) => heard.push(report),
    onLost: (detail) => heard.push(detail),
    ...more,
  });
  return { link, heard };
}

const QUESTION = { source: '10.213.0.2', name: 'good.test', port: 443, protocol: 'tls' } as const;
const OPEN: CheckVerdict = {
  kind: 'open',
  name: 'good.test',
  addresses: ['198.51.100.10'],
  inspect: false,
  requests: [],
};
/** Asks at the start, says what it heard, and ends when told to forget. */
const ECHO = `
  if (message.kind === 'start') {
    tell({ kind: 'listening' });
    tell({ kind: 'ask', id: 7, question: ${JSON.stringify(QUESTION)} });
  } else if (message.kind === 'authority') tell({ kind: 'authority', id: message.id, certificatePem: message.runId });
  else if (message.kind === 'forget') process.exit(3);
  else tell({ kind: 'denied', source: JSON.stringify(message) });`;

test('answers what the checker asks, passes on what it says, and tells when it is gone', async () => {
  const { link, heard } = linkTo({
    program: program('echo', ECHO),
    check: (question) => Promise.resolve(question.name === 'good.test' ? OPEN : { ...OPEN, name: 'wrong' }),
  });
  await link.start({ port: 5366 });
  link.close('10.213.0.2', ['good.test']);
  expect(await link.authority('10.213.0.2', 'run-1')).toBe('run-1');
  await until('the checker has said both', () => heard.length === 2, { deadlineMs: 10_000 });
  const said = [
    { kind: 'close', source: '10.213.0.2', names: ['good.test'] },
    { kind: 'verdict', id: 7, verdict: OPEN },
  ];
  const texts = heard.map((report) => (report as { readonly source: string }).source);
  expect(texts.toSorted()).toEqual(said.map((message) => JSON.stringify(message)));
  link.forget('10.213.0.2');
  await until('the checker is gone', () => heard.length === 3, { deadlineMs: 10_000 });
  expect(heard[2]).toBe('the checker ended (exit code 3)');
});

test('refuses when the gate fails on a question', async () => {
  const { link, heard } = linkTo({ program: program('failing', ECHO) });
  await link.start({ port: 5366 });
  await until('the checker has an answer', () => heard.length === 1, { deadlineMs: 10_000 });
  const { source } = heard[0] as { readonly source: string };
  expect(JSON.parse(source)).toMatchObject({ id: 7, verdict: { kind: 'refuse', line: null } });
  link.forget('10.213.0.2');
  await until('the checker is gone', () => heard.length === 2, { deadlineMs: 10_000 });
});

test.each([
  [
    'says that it cannot',
    `tell({ kind: 'failed', message: 'the port is taken' })`,
    'the checker failed: the port is taken',
  ],
  ['ends', 'process.exit(5)', 'the checker ended (exit code 5) before it listened'],
])('does not start with a checker that %s', async (_, body, message) => {
  const { link, heard } = linkTo({ program: program(`broken-${body.length}`, body) });
  await expect(link.start({ port: 5366 })).rejects.toThrow(message);
  expect(heard).toEqual([]);
});
