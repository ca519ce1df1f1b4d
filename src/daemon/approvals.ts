import { randomBytes } from 'node:crypto';
import { isDeepStrictEqual } from 'node:util';
import type { Approval, Caller } from '../api/service.ts';
import { heldRequestKey, type HeldRequest } from '../core/approval.ts';
import { fail, messageOf } from '../core/errors.ts';
import { idFrom } from '../core/ids.ts';
import type { Fence } from '../core/ports/fence.ts';
import type { Log } from '../core/ports/log.ts';
import type { Ledger } from '../core/ports/record.ts';
import { formatDuration } from '../core/units.ts';
import { Turns } from '../core/turns.ts';
import { addressVerdict, nameVerdict, neverRangeOf } from '../policy/egress.ts';
import type { PortGrant, Spec } from '../profile/spec.ts';
import { describeRequest } from '../report/wants.ts';

/**
 * What agents ask for and people decide.
 *
 *   asked ──▶ pending ──approve──▶ approved   fence first, then the record
 *                │ ├───deny─────▶ denied      the same
 *                │ └───time over─▶ expired    denied, because nobody came
 *                └──run over, profile changed─▶ withdrawn
 *
 * A request is bound to its run, to the profile that the run was held to when it asked, and to exactly what it asked
 * for. Decisions about one run, and changes of its profile, take turns: none of them sees half of another.
 */
export const OPEN_PER_RUN_MAX = 32;
const OPEN_MAX = 512;
const DECIDED_KEPT_MAX = 200;
/** One agent may not page people more often than this in its life; `pending` and the ledger still have everything. */
export const ANNOUNCED_PER_RUN_MAX = 64;
const ID_CHARS_MIN = 2;

export type AskingRun = {
  /** What the run is held to now. */
  readonly spec: Spec;
  readonly launchedBy: Caller;
};

export type ApprovalDeskOptions = {
  readonly ledger: Pick<Ledger, 'append'>;
  readonly fence: Pick<Fence, 'approve' | 'deny'>;
  readonly log: Log;
  readonly expireMs: number;
  /** How long an approval lasts when the approver says nothing else. */
  readonly grantMs: number;
  /** Null when the run is not there, or is ending. */
  runOf(runId: string): AskingRun | null;
  mayDecide(caller: Caller, launchedBy: Caller): Promise<boolean>;
  /** Tells the sinks of the profile. Never throws, never waits. */
  announce(approval: Approval, spec: Spec): void;
  nowMs(): number;
};

type Open = { readonly approval: Approval; readonly timer: NodeJS.Timeout };

export class ApprovalDesk {
  private readonly options: ApprovalDeskOptions;
  private readonly open = new Map<string, Open>();
  private readonly decided = new Map<string, Approval>();
  private readonly announced = new Map<string, number>();
  /** Runs that were told of as asking for too much, until one of their requests is over. */
  private readonly full = new Set<string>();
  private readonly turns = new Turns();

  constructor(options: ApprovalDeskOptions) {
    this.options = options;
  }

  /** From the DNS gate and the checker. What the profile does not put under `ask` is nobody's question. */
  askName(runId: string, request: HeldRequest & { readonly kind: 'name' }): void {
    const run = this.options.runOf(runId);
    if (run === null) return;
    const verdict = nameVerdict({ allow: [], ask: run.spec.egress.ask }, request.name);
    const covers = (wanted: PortGrant): boolean =>
      verdict.kind === 'ask' && verdict.ports.some((each) => isSamePort(each, wanted));
    if (request.ports.length === 0 || !request.ports.every(covers)) {
      this.options.log.warn(
        { runId, wants: describeRequest(request) },
        'asked for what the profile does not ask about',
      );
      return;
    }
    this.ask(runId, run, request);
  }

  /** From the warden, for a packet that waits. */
  askAddress(runId: string, wanted: PortGrant & { readonly address: string }): void {
    const run = this.options.runOf(runId);
    if (run === null) return;
    const { address, port, protocol } = wanted;
    const verdict = addressVerdict({ allow: [], ask: run.spec.egress.ask }, wanted);
    if (verdict.kind !== 'ask') return;
    const request = { kind: 'address', address, port, protocol, rule: verdict.rule.text } as const;
    if (neverRangeOf(address) !== null) this.refuse(runId, request);
    else this.ask(runId, run, request);
  }

  private ask(runId: string, run: AskingRun, request: HeldRequest): void {
    const ofRun = this.openOf(runId);
    const key = heldRequestKey(request);
    if (ofRun.some((approval) => heldRequestKey(approval.request) === key)) return;
    if (ofRun.length >= OPEN_PER_RUN_MAX || this.open.size >= OPEN_MAX) {
      this.refuseTooMany(runId, run.spec, request);
      return;
    }
    const nowMs = this.options.nowMs();
    const id = idFrom('a', randomBytes(12));
    const approval: Approval = {
      id,
      runId,
      profile: run.spec.name,
      profileDigest: run.spec.profileDigest,
      request,
      wants: describeRequest(request),
      state: 'pending',
      requestedAt: new Date(nowMs).toISOString(),
      expiresAt: new Date(nowMs + this.options.expireMs).toISOString(),
      decidedAt: null,
      decidedBy: null,
      forMs: null,
      reason: null,
    };
    const timer = setTimeout(() => void this.expire(id, runId), this.options.expireMs);
    // A daemon that stops does not wait for people.
    timer.unref();
    this.open.set(id, { approval, timer });
    const { wants, profileDigest, expiresAt } = approval;
    const fields = { wants, request, profileDigest, expiresAt };
    this.record('approval.requested', approval, fields).catch(() => undefined);
    this.announce(approval, run.spec);
  }

  private announce(approval: Approval, spec: Spec): void {
    const count = (this.announced.get(approval.runId) ?? 0) + 1;
    this.announced.set(approval.runId, count);
    if (count <= ANNOUNCED_PER_RUN_MAX) this.options.announce(approval, spec);
  }

  private refuseTooMany(runId: string, spec: Spec, request: HeldRequest): void {
    this.refuse(runId, request);
    if (this.full.has(runId)) return;
    this.full.add(runId);
    const why = 'refused, as too many requests wait already';
    const draft = {
      kind: 'approval.expired',
      runId,
      profile: spec.name,
      wants: describeRequest(request),
      why,
    } as const;
    this.options.ledger.append(draft).flushed.catch(() => undefined);
  }

  private refuse(runId: string, request: HeldRequest): void {
    this.options.fence.deny(runId, request).catch((error: unknown) => {
      this.options.log.warn({ runId, message: messageOf(error) }, 'a request could not be refused; it stays closed');
    });
  }

  async approve(reference: string, { forMs }: { readonly forMs: number | null }, caller: Caller): Promise<Approval> {
    const { id, runId } = this.find(reference);
    return await this.turns.take(runId, async () => {
      const { approval } = await this.decidable(id, caller);
      const { request, wants, profileDigest } = approval;
      const lifetime = { forMs: forMs ?? this.options.grantMs };
      await this.options.fence.approve(runId, request, lifetime);
      const fields = { decision: 'approved', wants, request, profileDigest, caller, ...lifetime };
      await this.record('approval.decided', approval, fields).catch(async (cause: unknown) => {
        // What is open must be on record, so what cannot be recorded is closed again.
        await this.options.fence.deny(runId, request);
        throw fail(
          'LEDGER_UNWRITABLE',
          { detail: `the approval could not be recorded: ${messageOf(cause)}` },
          { cause },
        );
      });
      return this.settle(id, { state: 'approved', decidedBy: caller, ...lifetime });
    });
  }

  async deny(reference: string, { reason }: { readonly reason: string | null }, caller: Caller): Promise<Approval> {
    const { id, runId } = this.find(reference);
    return await this.turns.take(runId, async () => {
      const { approval } = await this.decidable(id, caller);
      const { request, wants, profileDigest } = approval;
      await this.options.fence.deny(runId, request);
      const settled = this.settle(id, { state: 'denied', decidedBy: caller, reason });
      const fields = { decision: 'denied', wants, request, profileDigest, caller, reason };
      await this.record('approval.decided', approval, fields).catch(() => undefined);
      return settled;
    });
  }

  /** The request, when it may be decided by this caller now. */
  private async decidable(id: string, caller: Caller): Promise<Open> {
    const open = this.open.get(id);
    if (open === undefined) throw this.overFor(id);
    const { approval } = open;
    const run = this.options.runOf(approval.runId);
    if (run === null) throw fail('APPROVAL_DECIDED', { detail: `run ${approval.runId}, which asked, is over` });
    if (run.spec.profileDigest !== approval.profileDigest) {
      throw fail('APPROVAL_DECIDED', { detail: `the profile of run ${approval.runId} has changed since it asked` });
    }
    if (!(await this.options.mayDecide(caller, run.launchedBy))) {
      throw fail('FORBIDDEN', { detail: `user ${caller.uid} may not decide what ${approval.profile} may reach` });
    }
    return open;
  }

  private overFor(id: string): Error {
    const before = this.decided.get(id);
    const what = before === undefined ? 'is over' : `is ${before.state} since ${before.decidedAt ?? 'a while'}`;
    return fail('APPROVAL_DECIDED', { detail: `request ${id} ${what}` });
  }

  private async expire(id: string, runId: string): Promise<void> {
    await this.turns.take(runId, async () => {
      const approval = this.open.get(id)?.approval;
      if (approval === undefined) return;
      this.refuse(runId, approval.request);
      const why = `nobody decided within ${formatDuration(this.options.expireMs)}, so it is denied`;
      this.settle(id, { state: 'expired', reason: why });
      await this.record('approval.expired', approval, { wants: approval.wants, why }).catch(() => undefined);
    });
  }

  /** Changes the profile of a run while no decision about it is under way. What still waits is asked anew afterwards. */
  async whileChanging(runId: string, change: () => Promise<void>): Promise<void> {
    await this.turns.take(runId, async () => {
      await change();
      for (const { request } of this.withdraw(runId, 'the profile was changed')) this.askAnew(runId, request);
    });
  }

  /** Nobody can decide for a run that is over. */
  forget(runId: string): void {
    this.withdraw(runId, 'the run is over');
    this.announced.delete(runId);
    this.full.delete(runId);
  }

  private withdraw(runId: string, reason: string): readonly Approval[] {
    const withdrawn = this.openOf(runId);
    for (const approval of withdrawn) {
      this.settle(approval.id, { state: 'withdrawn', reason });
      void this.record('approval.expired', approval, { wants: approval.wants, why: reason }).catch(() => undefined);
    }
    return withdrawn;
  }

  /** The gate asks about a name once, so a question that the changed profile still has is put by us. */
  private askAnew(runId: string, request: HeldRequest): void {
    const run = this.options.runOf(runId);
    if (run === null) return;
    if (request.kind === 'address') {
      this.askAddress(runId, request);
      return;
    }
    const verdict = nameVerdict({ allow: [], ask: run.spec.egress.ask }, request.name);
    if (verdict.kind !== 'ask') return;
    const ports = verdict.ports.map(({ port, protocol }) => ({ port, protocol }));
    const rule = verdict.rule.text;
    const same = isDeepStrictEqual(ports, request.ports) && rule === request.rule;
    this.ask(runId, run, same ? request : { kind: 'name', name: request.name, ports, rule });
  }

  /** Oldest first. */
  list({ all }: { readonly all: boolean }): readonly Approval[] {
    const open = [...this.open.values()].map(({ approval }) => approval);
    if (!all) return open;
    return [...this.decided.values(), ...open].toSorted((left, right) =>
      left.requestedAt < right.requestedAt ? -1 : left.requestedAt > right.requestedAt ? 1 : 0,
    );
  }

  openOf(runId: string): readonly Approval[] {
    return this.list({ all: false }).filter((approval) => approval.runId === runId);
  }

  /** An id, or a unique beginning of one, of what waits or was decided lately. */
  private find(reference: string): Approval {
    const known = new Map(this.list({ all: true }).map((approval) => [approval.id, approval]));
    const exact = known.get(reference);
    if (exact !== undefined) return exact;
    const matches =
      reference.length < ID_CHARS_MIN ? [] : [...known.values()].filter(({ id }) => id.startsWith(reference));
    // What waits is what somebody means.
    const waiting = matches.filter(({ state }) => state === 'pending');
    const meant = waiting.length > 0 ? waiting : matches;
    if (meant.length > 1) {
      const ids = meant.slice(0, 5).map(({ id }) => id);
      throw fail('APPROVAL_AMBIGUOUS', { detail: `"${reference}" is the beginning of ${ids.join(', ')}` });
    }
    const [found] = meant;
    if (found === undefined) throw fail('APPROVAL_NOT_FOUND', { detail: `no request for approval is "${reference}"` });
    return found;
  }

  private settle(id: string, change: Partial<Approval>): Approval {
    const open = this.open.get(id);
    if (open === undefined) throw this.overFor(id);
    clearTimeout(open.timer);
    this.open.delete(id);
    this.full.delete(open.approval.runId);
    const settled = { ...open.approval, decidedAt: new Date(this.options.nowMs()).toISOString(), ...change };
    this.decided.set(id, settled);
    const oldest = this.decided.keys().next().value;
    if (this.decided.size > DECIDED_KEPT_MAX && oldest !== undefined) this.decided.delete(oldest);
    return settled;
  }

  private record(
    kind: 'approval.requested' | 'approval.decided' | 'approval.expired',
    { id, runId, profile }: Approval,
    fields: Readonly<Record<string, unknown>>,
  ): Promise<void> {
    return this.options.ledger.append({ kind, runId, profile, id, ...fields }).flushed;
  }
}

function isSamePort(left: PortGrant, right: PortGrant): boolean {
  return left.port === right.port && left.protocol === right.protocol;
}
