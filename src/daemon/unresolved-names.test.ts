import { expect, test } from 'vitest';
import type { LedgerRecord, RecordDraft } from '../core/ports/record.ts';
import { parseRule } from '../profile/rules.ts';
import type { EgressRule } from '../profile/spec.ts';
import type { Resolution } from '../gate/upstream.ts';
import { specOf } from '../run/testing.ts';
import { warnOfUnresolvedNames } from './unresolved-names.ts';

const SILENT = { debug() {}, info() {}, warn() {}, error() {} };
const ADMITTED = { seq: 1, at: '', prev: '', kind: 'run.admitted', runId: 'r1' } as const satisfies LedgerRecord;

function ruleOf(text: string): EgressRule {
  const parsed = parseRule(text);
  if (!parsed.ok) throw new Error(parsed.rule);
  return parsed.rule;
}

/** What is recorded of a run whose profile allows these, when only what is in `known` resolves. */
async function recordedOf(allow: readonly string[], known: Readonly<Record<string, Resolution>>) {
  const drafts: RecordDraft[] = [];
  const asked: string[] = [];
  const said = Promise.withResolvers<void>();
  let tell: (record: LedgerRecord) => void = () => undefined;
  const spec = { ...specOf(), egress: { allow: allow.map(ruleOf), ask: [] } };
  warnOfUnresolvedNames({
    ledger: {
      subscribe: (listener) => {
        tell = listener;
        return () => undefined;
      },
      append: (draft) => {
        drafts.push(draft);
        said.resolve();
        return { seq: 2, hash: '', flushed: Promise.resolve() };
      },
    },
    specOf: () => spec,
    resolve: async (name) => {
      asked.push(name);
      return known[name] ?? { kind: 'no-such-name', ttlSeconds: 5 };
    },
    log: SILENT,
  });
  tell(ADMITTED);
  await Promise.race([said.promise, new Promise((resolve) => setImmediate(resolve))]);
  return { drafts, asked };
}

const FOUND: Resolution = { kind: 'addresses', finalName: 'a.test', addresses: ['192.0.2.1'], ttlSeconds: 60 };

test('says which listed names do not resolve, and why', async () => {
  const { drafts } = await recordedOf(['good.example.com', 'tpyo.example.com', 'down.example.com'], {
    'good.example.com': FOUND,
    'down.example.com': { kind: 'failed', why: 'no resolver answered' },
  });
  expect(drafts).toEqual([
    {
      kind: 'egress.unresolved',
      runId: 'r1',
      profile: specOf().name,
      names: [
        { name: 'tpyo.example.com', why: 'no such name, or no IPv4 address' },
        { name: 'down.example.com', why: 'no resolver answered' },
      ],
    },
  ]);
});

test('says nothing when all of them do, and looks up neither wildcards nor addresses', async () => {
  const { drafts, asked } = await recordedOf(['good.example.com', '*.wild.example.com', '10.20.0.5/32:5432'], {
    'good.example.com': FOUND,
  });
  expect([drafts, asked]).toEqual([[], ['good.example.com']]);
});
