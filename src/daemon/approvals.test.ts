import { afterEach, describe, expect, test } from 'vitest';
import type { Approval, Caller } from '../api/service.ts';
import { heldRequestKey, type HeldRequest } from '../core/approval.ts';
import { fail } from '../core/errors.ts';
import type { RecordDraft } from '../core/ports/record.ts';
import { parseRule } from '../profile/rules.ts';
import type { EgressRule, Spec } from '../profile/spec.ts';
import { specOf } from '../run/testing.ts';
import { until } from '../../test/support/until.ts';
import { ApprovalDesk, ANNOUNCED_PER_RUN_MAX, OPEN_PER_RUN_MAX } from './approvals.ts';

const RUN = 'r000000000000';
const ROOT: Caller = { uid: 0, gid: 0, pid: 1 };
const OWNER: Caller = { uid: 1000, gid: 1000, pid: 2 };
const STRANGER: Caller = { uid: 1001, gid: 1001, pid: 3 };
const PATIENT_MS = 3_600_000;
const DEADLINE = { deadlineMs: 10_000 };

function rule(text: string): EgressRule {
  const parsed = parseRule(text, { list: 'ask', inspect: false });
  if (!parsed.ok) throw new Error(text);
  return parsed.rule;
}

function askingSpec(lines: readonly string[], change: Partial<Spec> = {}): Spec {
  return specOf({ egress: { allow: [], ask: lines.map(rule) }, ...change });
}

function nameRequest(name: string, text = name): HeldRequest & { readonly kind: 'name' } {
  return { kind: 'name', name, ports: [{ port: 443, protocol: 'tcp' }], rule: text };
}

type Call = readonly [what: 'approve' | 'deny', key: string, forMs: number | null];

/** A desk in front of a fence that notes what it is told. */
class Office {
  spec: Spec | null = askingSpec(['api.example.test', '*.wild.example.test', '192.0.2.40/32:443']);
  readonly calls: Call[] = [];
  readonly records: RecordDraft[] = [];
  readonly announced: Approval[] = [];
  refusal: Error | null = null;
  ledgerFailure: Error | null = null;
  readonly desk: ApprovalDesk;

  constructor({ expireMs = PATIENT_MS }: { readonly expireMs?: number } = {}) {
    const call = (what: Call[0], request: HeldRequest, forMs: number | null): void => {
      if (this.refusal !== null) throw this.refusal;
      this.calls.push([what, heldRequestKey(request), forMs]);
    };
    this.desk = new ApprovalDesk({
      fence: {
        approve: async (_, request, { forMs }) => call('approve', request, forMs),
        deny: async (_, request) => call('deny', request, null),
      },
      ledger: {
        append: (draft) => {
          this.records.push(draft);
          const flushed = this.ledgerFailure === null ? Promise.resolve() : Promise.reject(this.ledgerFailure);
          return { seq: this.records.length, hash: '', flushed };
        },
      },
      log: { debug: () => undefined, info: () => undefined, warn: () => undefined, error: () => undefined },
      expireMs,
      grantMs: 60_000,
      runOf: () => (this.spec === null ? null : { spec: this.spec, launchedBy: OWNER }),
      mayDecide: async (caller, launchedBy) => caller.uid === 0 || caller.uid === launchedBy.uid,
      announce: (approval) => this.announced.push(approval),
      nowMs: () => Date.now(),
    });
    offices.push(this);
  }

  /** The one request that waits. */
  get only(): Approval {
    const [first, ...others] = this.desk.list({ all: false });
    if (first === undefined || others.length > 0) throw new Error(`${others.length} others wait`);
    return first;
  }

  kinds(): readonly string[] {
    return this.records.map(({ kind }) => kind);
  }
}

const offices: Office[] = [];
afterEach(() => {
  for (const office of offices.splice(0)) office.desk.forget(RUN);
});

describe('what an agent asks for', () => {
  test('waits, is recorded, and people are told, once however often it is asked', () => {
    const office = new Office();
    office.desk.askName(RUN, nameRequest('api.example.test'));
    office.desk.askName(RUN, nameRequest('api.example.test'));
    const { id, wants, state, profileDigest } = office.only;
    expect({ wants, state, profileDigest }).toEqual({
      wants: 'api.example.test on 443/tcp',
      state: 'pending',
      profileDigest: specOf().profileDigest,
    });
    expect(id).toMatch(/^a[0-9a-z]{12}$/);
    expect(office.kinds()).toEqual(['approval.requested']);
    expect(office.announced.map((each) => each.id)).toEqual([id]);
  });

  test('of a packet is the address, the port and the rule that asks', () => {
    const office = new Office();
    office.desk.askAddress(RUN, { address: '192.0.2.40', port: 443, protocol: 'tcp' });
    expect(office.only.request).toEqual({
      kind: 'address',
      address: '192.0.2.40',
      port: 443,
      protocol: 'tcp',
      rule: '192.0.2.40/32:443',
    });
  });

  test.each([
    ['a name that no rule asks about', (office: Office) => office.desk.askName(RUN, nameRequest('evil.test'))],
    [
      'a port that no rule asks about',
      (office: Office) =>
        office.desk.askName(RUN, { ...nameRequest('api.example.test'), ports: [{ port: 22, protocol: 'tcp' }] }),
    ],
    ['no port at all', (office: Office) => office.desk.askName(RUN, { ...nameRequest('api.example.test'), ports: [] })],
    [
      'an address beside the one that asks',
      (office: Office) => office.desk.askAddress(RUN, { address: '192.0.2.41', port: 443, protocol: 'tcp' }),
    ],
  ])('is nobody’s question for %s', (_, ask) => {
    const office = new Office();
    ask(office);
    expect(office.desk.list({ all: true })).toEqual([]);
    expect(office.records).toEqual([]);
  });

  test('is refused at once for an address that no person may open', async () => {
    const office = new Office();
    // The profile refuses such a rule; the desk does not rely on it.
    const ports = [{ port: 22, protocol: 'tcp' as const }];
    const wide = { kind: 'address', text: 'all', network: '0.0.0.0', prefixLength: 0, ports } as const;
    office.spec = specOf({ egress: { allow: [], ask: [wide] } });
    office.desk.askAddress(RUN, { address: '10.1.2.3', port: 22, protocol: 'tcp' });
    expect(office.desk.list({ all: true })).toEqual([]);
    await until('the fence is told', () => office.calls.length === 1, DEADLINE);
    expect(office.calls).toEqual([['deny', '10.1.2.3:22/tcp', null]]);
  });

  test('is refused when too much waits already, and that is recorded once', async () => {
    const office = new Office();
    for (let index = 0; index < OPEN_PER_RUN_MAX + 20; index += 1)
      office.desk.askName(RUN, nameRequest(`n${index}.wild.example.test`, '*.wild.example.test'));
    expect(office.desk.openOf(RUN)).toHaveLength(OPEN_PER_RUN_MAX);
    await until('the others are refused', () => office.calls.length === 20, DEADLINE);
    expect(office.kinds().filter((kind) => kind === 'approval.expired')).toHaveLength(1);
  });

  test('stops to page people after a while, and still waits', async () => {
    const office = new Office();
    for (let index = 0; index < ANNOUNCED_PER_RUN_MAX + 5; index += 1) {
      office.desk.askName(RUN, nameRequest(`n${index}.wild.example.test`, '*.wild.example.test'));
      await office.desk.deny(office.only.id, { reason: null }, ROOT);
    }
    expect(office.announced).toHaveLength(ANNOUNCED_PER_RUN_MAX);
    expect(office.kinds().filter((kind) => kind === 'approval.requested')).toHaveLength(ANNOUNCED_PER_RUN_MAX + 5);
  });
});

describe('a decision', () => {
  function asked(options: { readonly expireMs?: number } = {}): Office {
    const office = new Office(options);
    office.desk.askName(RUN, nameRequest('api.example.test'));
    return office;
  }

  test('opens exactly what was asked, for the time that was said, and is on record with who decided', async () => {
    const office = asked();
    const { id, request, profileDigest } = office.only;
    const approval = await office.desk.approve(id, { forMs: 5_000 }, OWNER);
    expect(approval).toMatchObject({ id, state: 'approved', forMs: 5_000, decidedBy: OWNER });
    expect(office.calls).toEqual([['approve', 'api.example.test', 5_000]]);
    expect(office.records.at(-1)).toEqual({
      kind: 'approval.decided',
      runId: RUN,
      profile: 'probe',
      id,
      decision: 'approved',
      wants: 'api.example.test on 443/tcp',
      request,
      profileDigest,
      caller: OWNER,
      forMs: 5_000,
    });
    expect(office.desk.list({ all: false })).toEqual([]);
  });

  test('lasts as the daemon is configured when no time is said', async () => {
    const office = asked();
    expect((await office.desk.approve(office.only.id, { forMs: null }, ROOT)).forMs).toBe(60_000);
  });

  test('to deny closes it with the reason', async () => {
    const office = asked();
    const denied = await office.desk.deny(office.only.id, { reason: 'not needed' }, ROOT);
    expect(denied).toMatchObject({ state: 'denied', reason: 'not needed' });
    expect(office.calls).toEqual([['deny', 'api.example.test', null]]);
    expect(office.records.at(-1)).toMatchObject({ kind: 'approval.decided', decision: 'denied', caller: ROOT });
  });

  test('is made once: the second of two people hears of the first', async () => {
    const office = asked();
    const { id } = office.only;
    const both = await Promise.allSettled([
      office.desk.approve(id, { forMs: null }, ROOT),
      office.desk.deny(id, { reason: null }, OWNER),
    ]);
    expect(both.map(({ status }) => status)).toEqual(['fulfilled', 'rejected']);
    expect(both[1]).toMatchObject({ reason: { code: 'APPROVAL_DECIDED' } });
    expect(office.calls).toHaveLength(1);
  });

  test('takes a unique beginning of the id, and refuses one that is not', async () => {
    const office = asked();
    const { id } = office.only;
    expect((await office.desk.deny(id.slice(0, 8), { reason: null }, ROOT)).id).toBe(id);
    for (let index = 0; index < OPEN_PER_RUN_MAX; index += 1)
      office.desk.askName(RUN, nameRequest(`n${index}.wild.example.test`, '*.wild.example.test'));
    await expect(office.desk.deny('a', { reason: null }, ROOT)).rejects.toMatchObject({ code: 'APPROVAL_NOT_FOUND' });
  });

  test.each([
    [
      'an unknown id',
      'APPROVAL_NOT_FOUND',
      (office: Office) => office.desk.approve('a00000000000', { forMs: null }, ROOT),
    ],
    ['somebody else', 'FORBIDDEN', (office: Office) => office.desk.approve(office.only.id, { forMs: null }, STRANGER)],
    [
      'somebody else who denies',
      'FORBIDDEN',
      (office: Office) => office.desk.deny(office.only.id, { reason: null }, STRANGER),
    ],
    [
      'a run that is over',
      'APPROVAL_DECIDED',
      (office: Office) => {
        office.spec = null;
        return office.desk.approve(office.only.id, { forMs: null }, ROOT);
      },
    ],
    [
      'a profile that has changed since',
      'APPROVAL_DECIDED',
      (office: Office) => {
        office.spec = askingSpec(['api.example.test'], { profileDigest: `sha256:${'1'.repeat(64)}` });
        return office.desk.approve(office.only.id, { forMs: null }, ROOT);
      },
    ],
  ])('is refused for %s, and opens nothing', async (_, code, decide) => {
    const office = asked();
    await expect(decide(office)).rejects.toMatchObject({ code });
    expect(office.calls).toEqual([]);
    expect(office.desk.list({ all: false })).toHaveLength(1);
  });

  test('that the fence cannot carry out is an error, and the request waits on', async () => {
    const office = asked();
    office.refusal = fail('FENCE_FAILED', { detail: 'no set' });
    await expect(office.desk.approve(office.only.id, { forMs: null }, ROOT)).rejects.toThrow('no set');
    expect(office.kinds()).toEqual(['approval.requested']);
    office.refusal = null;
    expect((await office.desk.approve(office.only.id, { forMs: null }, ROOT)).state).toBe('approved');
  });

  test('that cannot be recorded is taken back', async () => {
    const office = asked();
    office.ledgerFailure = new Error('disk full');
    const approving = office.desk.approve(office.only.id, { forMs: null }, ROOT);
    await expect(approving).rejects.toMatchObject({ code: 'LEDGER_UNWRITABLE' });
    expect(office.calls.map(([what]) => what)).toEqual(['approve', 'deny']);
    expect(office.only.state).toBe('pending');
  });

  test('nobody made in time is a denial', async () => {
    const office = asked({ expireMs: 30 });
    const { id } = office.only;
    await until('it is over', () => office.kinds().includes('approval.expired'), DEADLINE);
    expect(office.calls).toEqual([['deny', 'api.example.test', null]]);
    expect(office.desk.list({ all: true })).toMatchObject([{ id, state: 'expired', decidedBy: null }]);
    await expect(office.desk.approve(id, { forMs: null }, ROOT)).rejects.toMatchObject({ code: 'APPROVAL_DECIDED' });
  });
});

describe('the end of a run, or of its profile', () => {
  test('withdraws what waits', () => {
    const office = new Office();
    office.desk.askName(RUN, nameRequest('api.example.test'));
    office.desk.forget(RUN);
    expect(office.desk.list({ all: false })).toEqual([]);
    expect(office.desk.list({ all: true })).toMatchObject([{ state: 'withdrawn', reason: 'the run is over' }]);
    expect(office.kinds()).toEqual(['approval.requested', 'approval.expired']);
  });

  test('puts anew, bound to the new profile, what the new profile asks as well', async () => {
    const office = new Office();
    office.desk.askName(RUN, nameRequest('api.example.test'));
    office.desk.askName(RUN, nameRequest('a.wild.example.test', '*.wild.example.test'));
    const before = office.desk.list({ all: false }).map(({ id }) => id);
    const digest = `sha256:${'1'.repeat(64)}`;
    await office.desk.whileChanging(RUN, async () => {
      office.spec = askingSpec(['api.example.test:443,8443'], { profileDigest: digest });
    });
    const { id, profileDigest, wants, request } = office.only;
    expect(before).not.toContain(id);
    expect({ profileDigest, wants, rule: request.rule }).toEqual({
      profileDigest: digest,
      wants: 'api.example.test on 443/tcp, 8443/tcp',
      rule: 'api.example.test:443,8443',
    });
    expect(office.calls).toEqual([]);
  });

  test('a change that fails withdraws nothing', async () => {
    const office = new Office();
    office.desk.askName(RUN, nameRequest('api.example.test'));
    const changing = office.desk.whileChanging(RUN, () => Promise.reject(new Error('no')));
    await expect(changing).rejects.toThrow('no');
    expect(office.only.state).toBe('pending');
  });

  test('a decision waits for a change that is under way, and then is about the new profile', async () => {
    const office = new Office();
    office.desk.askName(RUN, nameRequest('api.example.test'));
    const { id } = office.only;
    const change = Promise.withResolvers<void>();
    const changing = office.desk.whileChanging(RUN, () => change.promise);
    const deciding = office.desk.approve(id, { forMs: null }, ROOT);
    office.spec = askingSpec([], { profileDigest: `sha256:${'1'.repeat(64)}` });
    change.resolve();
    await changing;
    await expect(deciding).rejects.toMatchObject({ code: 'APPROVAL_DECIDED' });
    expect(office.calls).toEqual([]);
  });
});
