import fc from 'fast-check';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { RECORD_KINDS, type LedgerRecord, type RecordKind } from '../core/ports/record.ts';
import { csvOf } from './csv.ts';
import { ocsfOf } from './ocsf.ts';
import { AT, sshBreach, sshDenial } from './testing.ts';

/** The published schema, cut to what an event must have, may have, and which activities there are. */
type Schema = {
  readonly classes: Readonly<
    Record<string, { readonly required: string[]; readonly known: string[]; readonly activities: number[] }>
  >;
  readonly objects: Readonly<Record<string, { required: string[]; atLeastOne: string[]; known: string[] }>>;
};
const path = join(import.meta.dirname, '../../test/fixtures/ocsf-1.8.0.json');
const schema = JSON.parse(readFileSync(path, 'utf8')) as Schema;

/** Which object of the schema an attribute holds. */
const OBJECTS: Readonly<Record<string, string>> = {
  metadata: 'metadata',
  product: 'product',
  dst_endpoint: 'network_endpoint',
  connection_info: 'network_connection_info',
  traffic: 'network_traffic',
  finding_info: 'finding_info',
  process: 'process',
  actor: 'actor',
  app: 'application',
  device: 'device',
  evidences: 'evidences',
  user: 'user',
  remediation: 'remediation',
  firewall_rule: 'firewall_rule',
  policy: 'policy',
};

function faultsOf(event: Readonly<Record<string, unknown>>): string[] {
  const shape = schema.classes[String(event['class_uid'])];
  if (shape === undefined) return [`class ${String(event['class_uid'])} is unknown`];
  const faults = shape.required.filter((name) => event[name] === undefined).map((name) => `${name} is missing`);
  faults.push(...Object.keys(event).filter((name) => !shape.known.includes(name)));
  if (!shape.activities.includes(Number(event['activity_id']))) faults.push('activity_id is not of the class');
  if (event['type_uid'] !== Number(event['class_uid']) * 100 + Number(event['activity_id'])) faults.push('type_uid');
  if (event['activity_id'] === 99 && typeof event['activity_name'] !== 'string') faults.push('activity_name');
  return [...faults, ...objectFaults(event)];
}

function objectFaults(holder: Readonly<Record<string, unknown>>): string[] {
  return Object.entries(OBJECTS).flatMap(([name, kind]) => {
    const value = holder[name];
    if (value === undefined) return [];
    return [value].flat().flatMap((item) => {
      const object = item as Readonly<Record<string, unknown>>;
      const shape = schema.objects[kind] ?? { required: [], atLeastOne: [], known: [] };
      const faults = shape.required
        .filter((key) => object[key] === undefined)
        .map((key) => `${name}.${key} is missing`);
      const some = shape.atLeastOne.length === 0 || shape.atLeastOne.some((key) => object[key] !== undefined);
      const unknown = Object.keys(object).filter((key) => !shape.known.includes(key));
      return [...faults, ...(some ? [] : [`${name} has none of its keys`]), ...unknown, ...objectFaults(object)];
    });
  });
}

const caller = { uid: 1000, gid: 1000, pid: 7 };
const drafts: readonly (readonly [kind: RecordKind, classUid: number, activity: number, fields: object])[] = [
  ['daemon.started', 6002, 3, { version: '1', pid: 1 }],
  ['daemon.stopped', 6002, 4, {}],
  ['run.admitted', 5019, 1, { profileDigest: 'sha256:0', caller }],
  ['run.changed', 5019, 1, { fromDigest: 'a', toDigest: 'b', caller }],
  ['run.refused', 1007, 1, { code: 'PROFILE_INVALID', message: 'no', caller }],
  ['run.started', 1007, 1, { pid: 4711, containerId: 'c' }],
  ['run.adopted', 1007, 3, { containerId: 'c' }],
  ['run.ended', 1007, 2, { outcome: { reason: 'budget.cpu', exitCode: 137, incidentId: 'i1' } }],
  ['egress.denied', 4001, 5, { denial: sshDenial, suppressed: 3 }],
  ['egress.suppressed', 4001, 5, { suppressed: 9_000 }],
  ['egress.allowed', 4001, 6, { address: '192.0.2.30', port: 443, protocol: 'tcp', egressBytes: 9, packets: 1 }],
  ['breach', 2004, 1, { breach: sshBreach }],
  ['incident.opened', 2004, 1, { incident: { id: 'i1', cure: 'x', what: { severity: 'critical', summary: 's' } } }],
  ['quarantine.set', 2004, 2, { incidentId: 'i1' }],
  ['quarantine.released', 2004, 3, { caller }],
  ['drift.detected', 2004, 1, { what: 'somebody did "pause"' }],
  ['enforcement.lost', 2004, 1, { what: 'egress', findings: [] }],
  ['budget.warned', 2004, 1, { rule: 'budget.cpu' }],
  ['approval.decided', 5019, 1, { caller }],
  ['run.verified', 5019, 1, { bounds: [] }],
  ['run.held', 1007, 99, { breach: sshBreach }],
  ['run.resumed', 1007, 99, {}],
  ['ledger.recovered', 2004, 1, { how: 'new-segment', broken: true, why: 'x' }],
  ['ledger.key', 6002, 99, { key: 'k' }],
  ['ledger.pruned', 6002, 99, { fromSeq: 1, toSeq: 2 }],
  ['run.cleaned', 6002, 99, { failures: [] }],
  ['approval.requested', 4001, 99, { wants: 'x', request: { kind: 'name', name: 'docs.example', ports: [] } }],
  ['approval.expired', 4001, 5, { wants: 'x', why: 'nobody decided' }],
  ['egress.unresolved', 6002, 99, { names: [] }],
  ['incident.closed', 2004, 3, { incidentId: 'i1', how: 'released' }],
  ['alert.delivered', 6002, 99, { sink: 'ops', id: 'i1' }],
  ['alert.failed', 6002, 99, { sink: 'ops', id: 'i1' }],
  ['garbage.collected', 6002, 99, { removed: [] }],
  ['command.issued', 6002, 99, { command: 'kill', caller }],
  ['ledger.checkpoint', 6002, 99, { of: 1, hash: 'x' }],
];

function recordOf(kind: RecordKind, fields: object): LedgerRecord {
  return { seq: 7, at: AT, prev: '0'.repeat(64), kind, runId: 'r1', profile: 'rome', ...fields };
}

const options = { host: 'host.example', version: '1.2.3' };

describe('ocsfOf', () => {
  test.each(drafts)('%s is an event of class %i, activity %i', (kind, classUid, activity, fields) => {
    const event = ocsfOf(recordOf(kind, fields), options);
    expect(faultsOf(event)).toEqual([]);
    expect([event['class_uid'], event['activity_id'], event['time']]).toEqual([classUid, activity, Date.parse(AT)]);
  });

  test('has a class for every kind of record', () => {
    expect(drafts.map(([kind]) => kind).toSorted()).toEqual(RECORD_KINDS.toSorted());
  });

  test('says where a refused packet wanted to go, and how many there were', () => {
    const event = ocsfOf(recordOf('egress.denied', { denial: sshDenial, suppressed: 3 }), options);
    expect(event).toMatchObject({ dst_endpoint: { ip: '203.0.113.10', port: 22 }, count: 4, disposition_id: 2 });
  });

  test('a validator that knows the schema refuses an event without its parts', () => {
    const { process: _process, ...without } = ocsfOf(recordOf('run.started', {}), options);
    expect(faultsOf(without)).toEqual(['process is missing']);
  });

  test('whatever a record holds, the event is a valid one', () => {
    const kinds = fc.constantFrom(...drafts.map(([kind]) => kind));
    const fields = fc.dictionary(fc.constantFrom('denial', 'incident', 'outcome', 'caller', 'breach'), fc.anything());
    fc.assert(
      fc.property(kinds, fields, (kind, given) => {
        expect(faultsOf(ocsfOf(recordOf(kind, given), options))).toEqual([]);
      }),
    );
  });
});

test('a line of CSV holds no formula and no second line', () => {
  const line = csvOf(recordOf('egress.denied', { denial: { ...sshDenial, destination: '=cmd|"x"\n1' } }));
  const cells = line.split(',');
  expect(cells.slice(0, 3)).toEqual(['7', AT, 'egress.denied']);
  expect(line.trimEnd()).not.toMatch(/[\r\n]/);
  expect(line).toContain(`'=cmd`);
});
