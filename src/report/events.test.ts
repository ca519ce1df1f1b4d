import fc from 'fast-check';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { RECORD_KINDS, type RecordDraft, type RecordKind } from '../core/ports/record.ts';
import { renderEvent } from './events.ts';
import { AT, cpuBreach, incidentOf, nameDenial, outcomeWith, sshBreach, sshDenial } from './testing.ts';

const caller = { uid: 1_000, gid: 1_000, pid: 7 };
const run = { runId: 'r0123456789ab', profile: 'rome' };

function rendered(draft: RecordDraft): string {
  return renderEvent({ seq: 1, at: AT, prev: '0'.repeat(64), ...draft });
}

describe('one line a record', () => {
  const cases: readonly (readonly [draft: RecordDraft, detail: string])[] = [
    [{ kind: 'daemon.started', version: '0.1.0', pid: 7 }, 'version 0.1.0, pid 7'],
    [
      { kind: 'daemon.started', version: '0.1.0', pid: 7, gapFrom: AT },
      `version 0.1.0, pid 7, nobody watched since ${AT}`,
    ],
    [{ kind: 'daemon.stopped' }, ''],
    [{ kind: 'ledger.key', key: 'ringfence/h+1+2' }, 'ringfence/h+1+2'],
    [{ kind: 'ledger.checkpoint', of: 41 }, 'signed up to record 41'],
    [{ kind: 'ledger.pruned', fromSeq: 1, toSeq: 9 }, 'records 1 to 9 were deleted for their age'],
    [
      { kind: 'ledger.recovered', broken: false, bytes: 51, movedTo: 'torn-000001-9-001' },
      'a torn tail of 51 bytes was moved, to torn-000001-9-001',
    ],
    [
      { kind: 'ledger.recovered', broken: true, why: 'changed', file: 'ledger-000001.ndjson', line: 2 },
      'damage found: changed, file ledger-000001.ndjson, line 2',
    ],
    [{ kind: 'run.admitted', image: 'x:1', command: ['sh', '-c', 'true'] }, 'image x:1, command sh -c true'],
    [{ kind: 'run.refused', code: 'IMAGE_NOT_FOUND', message: 'no image' }, 'IMAGE_NOT_FOUND, no image'],
    [{ kind: 'run.started', containerId: 'ab'.repeat(32), pid: 9 }, 'container abababababab, pid 9'],
    [{ kind: 'run.verified', bounds: [1, 2], note: null }, '2 bounds read back'],
    [
      {
        kind: 'run.changed',
        fromDigest: `sha256:${'a'.repeat(64)}`,
        toDigest: `sha256:${'b'.repeat(64)}`,
        caller,
        changes: ['egress.allow: removed x (tighter)', 'budget.cpu: 1 s → 2 s (wider)'],
      },
      'sha256:aaaaaaaaaaaa → sha256:bbbbbbbbbbbb, by uid 1000, egress.allow: removed x (tighter); budget.cpu: 1 s → 2 s (wider)',
    ],
    [
      { kind: 'run.held', breach: { ...cpuBreach, action: 'pause' } },
      'budget.cpu crossed: 3.02 s of 3 s, action pause',
    ],
    [{ kind: 'run.resumed' }, 'goes on'],
    [
      { kind: 'approval.requested', id: 'a1', wants: 'a.example on 443/tcp', request: { rule: '*.example' } },
      'a1, wants a.example on 443/tcp, under *.example',
    ],
    [
      {
        kind: 'approval.decided',
        id: 'a1',
        decision: 'approved',
        wants: 'a.example on 443/tcp',
        forMs: 600_000,
        caller,
      },
      'a1, approved a.example on 443/tcp, for 10m 00s, by uid 1000',
    ],
    [
      { kind: 'approval.decided', id: 'a1', decision: 'denied', wants: 'a.example', caller, reason: 'no \u001b[31m' },
      'a1, denied a.example, by uid 1000, no \\u{1b}[31m',
    ],
    [{ kind: 'approval.expired', id: 'a1', wants: 'a.example', why: 'nobody came' }, 'a1, a.example, nobody came'],
    [{ kind: 'run.ended', outcome: outcomeWith({}) }, 'exited, code 0, after 5.3 s, the agent exited'],
    [{ kind: 'run.cleaned', failures: [] }, 'nothing left behind'],
    [{ kind: 'run.cleaned', failures: ['network: busy'] }, 'left behind: network: busy'],
    [
      { kind: 'budget.warned', rule: 'budget.cpu', fraction: 0.8, measured: 2_400, limit: 3_000, unit: 'ms' },
      'budget.cpu at 80 %: 2.4 s of 3 s',
    ],
    [
      { kind: 'egress.denied', denial: sshDenial, suppressed: 3 },
      '203.0.113.10:22/tcp, by egress, and 3 more, 203.0.113.10:22/tcp is not in egress.allow',
    ],
    [
      { kind: 'egress.denied', denial: nameDenial, suppressed: 0 },
      'the name pool.example.test, by egress, "pool.example.test" is not in egress.allow',
    ],
    [{ kind: 'breach', breach: cpuBreach }, 'budget.cpu crossed: 3.02 s of 3 s, action stop'],
    [
      { kind: 'incident.opened', incident: incidentOf(sshBreach) },
      'i0123456789ab, high, rome tried to reach 203.0.113.10:22/tcp, which its profile does not allow, and was killed.',
    ],
    [{ kind: 'quarantine.set', incidentId: 'i0123456789ab' }, 'until released, after i0123456789ab'],
    [{ kind: 'quarantine.released', caller }, 'by uid 1000'],
    [{ kind: 'command.issued', command: 'kill', caller }, 'kill, by uid 1000'],
    [{ kind: 'drift.detected', what: 'restarted' }, 'restarted'],
    [{ kind: 'enforcement.lost', what: 'warden', detail: 'gone' }, 'warden, gone'],
    [{ kind: 'alert.delivered', sink: 'ops', id: 'i1_opened' }, 'to ops, i1_opened'],
    [
      { kind: 'alert.failed', sink: 'ops', id: 'i1_opened', message: 'answered 500' },
      'to ops, i1_opened, answered 500',
    ],
    [{ kind: 'garbage.collected', removed: ['a', 'b'] }, 'a, b'],
  ];
  for (const [draft, detail] of cases) {
    test(`${draft.kind}: ${detail}`, () => {
      const head = `${AT}  ${draft.kind.padEnd(19)}  r0123456789ab  rome`;
      expect(rendered({ ...run, ...draft })).toBe(detail === '' ? head : `${head}  ${detail}`);
    });
  }
});

test('a record without a run keeps its columns', () => {
  expect(rendered({ kind: 'daemon.started', version: '1' })).toBe(
    `${AT}  daemon.started       -              version 1`,
  );
});

test('whatever a record holds, it is one short printable line', () => {
  const kinds = fc.constantFrom<RecordKind>('run.ended', 'breach', 'egress.denied', 'incident.opened', 'run.admitted');
  const names = fc.constantFrom('outcome', 'breach', 'denial', 'incident', 'command', 'caller', 'failures', 'what');
  fc.assert(
    fc.property(kinds, fc.dictionary(names, fc.jsonValue()), fc.string({ unit: 'binary' }), (kind, fields, text) => {
      const line = rendered({ ...fields, kind, runId: text, profile: text, detail: text, what: text });
      expect(line.length).toBeLessThan(2_500);
      // oxlint-disable-next-line no-control-regex -- the control characters are what is looked for
      expect(line).not.toMatch(/[\u0000-\u001f\u007f\u2028\u202e]/);
    }),
  );
});

test('every kind of record is described, and nothing that there is not', () => {
  const page = readFileSync(join(import.meta.dirname, '../../docs/ledger.md'), 'utf8');
  const [table = ''] = page.slice(page.indexOf('| kind | fields |\n')).split('\n\n');
  const kinds = [...table.matchAll(/^\| (`[^|]+) \|/gm)].flatMap(([, cell = '']) =>
    cell.replaceAll('`', '').split(', '),
  );
  expect(new Set(kinds)).toEqual(new Set(RECORD_KINDS));
});
