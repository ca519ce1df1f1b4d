import type { Alert, AlertFact, SinkRules } from '../core/ports/alert.ts';
import { severityRank } from './filter.ts';
import type { Spooled } from './spool.ts';

/**
 * A hundred incidents in a minute are one event for who has to look. The first few of a window go as they are; the others
 * are held, each on disk, and go as one digest when the window ends. While that goes on there is one digest a window. What is
 * graver than everything before it in the window always goes at once.
 */
export class Storm {
  readonly #rules: SinkRules;
  #openedAtMs = -Infinity;
  #passed = 0;
  #worst = -1;
  #lead: Alert | null = null;
  #held: Spooled[] = [];
  #hurried = false;

  constructor(rules: SinkRules) {
    this.#rules = rules;
  }

  get held(): readonly Spooled[] {
    return this.#held;
  }

  /** True: it goes by itself. False: it is held here from now on. */
  passes(spooled: Spooled, nowMs: number): boolean {
    this.#noteClock(nowMs);
    if (this.#held.length === 0 && nowMs >= this.#openedAtMs + this.#rules.stormWindowMs) {
      this.#openedAtMs = nowMs;
      this.#passed = 0;
      this.#worst = -1;
      this.#lead = null;
    }
    const { alert } = spooled;
    const rank = severityRank(alert.severity);
    if (this.#passed < this.#rules.stormAfter || rank > this.#worst) {
      this.#passed += 1;
      this.#worst = Math.max(this.#worst, rank);
      this.#lead ??= alert;
      return true;
    }
    this.#held.push(spooled);
    return false;
  }

  /** When what is held has to go; Infinity while nothing is. */
  dueAtMs(nowMs: number): number {
    this.#noteClock(nowMs);
    if (this.#held.length === 0) return Infinity;
    return this.#hurried || this.#held.length >= HELD_MAX ? 0 : this.#openedAtMs + this.#rules.stormWindowMs;
  }

  /** A clock that was set back must not make a window last for as long as it was wrong. */
  #noteClock(nowMs: number): void {
    this.#openedAtMs = Math.min(this.#openedAtMs, nowMs);
  }

  /** Somebody asked for it now. */
  hurry(): void {
    this.#hurried = this.#held.length > 0;
  }

  /** What is held, oldest first, with the alert that began the storm; the next window begins. */
  take(nowMs: number): { readonly held: readonly Spooled[]; readonly lead: Alert | null } {
    const held = this.#held;
    this.#held = [];
    this.#hurried = false;
    this.#openedAtMs = nowMs;
    this.#passed = this.#rules.stormAfter;
    return { held, lead: this.#lead };
  }

  /** Takes back what could not be sent on; it is due again when the window ends. */
  restore(held: readonly Spooled[]): void {
    this.#held = [...held, ...this.#held];
  }
}

/** The digest names its files, so its size is bounded by this too. */
const HELD_MAX = 1_000;
const GROUPS_MAX = 20;
const DIGEST_ID_CHARS_MAX = 50;

/** One alert for many: how many of which agent and type, the first and the last. */
export function digestOf(
  held: readonly Spooled[],
  options: { readonly lead: Alert | null; readonly nowMs: number },
): Alert {
  const [first] = held;
  const last = held.at(-1);
  if (first === undefined || last === undefined) throw new Error('a digest of nothing');
  const groups = groupsOf(held);
  const subjects = new Set(held.map(({ alert }) => alert.subject)).size;
  const severity = held.reduce(
    (worst, { alert }) => (severityRank(alert.severity) > severityRank(worst) ? alert.severity : worst),
    first.alert.severity,
  );
  const agents = subjects === 1 ? `of ${first.alert.subject}` : `of ${subjects} agents`;
  const data = {
    count: held.length,
    groups: groups.slice(0, GROUPS_MAX),
    groupsLeftOut: Math.max(0, groups.length - GROUPS_MAX),
    first: placeOf(first),
    last: placeOf(last),
  };
  return {
    // An alert is held once, so its digest has this id after a crash as well.
    id: `${first.alert.id.slice(0, DIGEST_ID_CHARS_MAX)}_digest`,
    sink: first.alert.sink,
    type: 'digest',
    subject: first.alert.subject,
    severity,
    // A pager that was called for the first of the storm is not called again: it is the same thing.
    key: options.lead?.key ?? first.alert.key,
    summary: `${held.length} more alerts ${agents} in a short time; the first was: ${first.alert.summary}`,
    facts: [...groups.slice(0, GROUPS_MAX).map(factOf), ...endsOf(data), ...checkpointOf(last.alert)],
    body: JSON.stringify({ type: 'digest', timestamp: new Date(options.nowMs).toISOString(), data }),
  };
}

/** The latest place where the ledger was signed that is known to what the digest stands for. */
function checkpointOf(alert: Alert): readonly AlertFact[] {
  return alert.facts.filter(({ name }) => name === 'checkpoint');
}

type Group = { readonly subject: string; readonly type: string; readonly reason: string; readonly count: number };

/** Most frequent first. */
function groupsOf(held: readonly Spooled[]): readonly Group[] {
  const groups = new Map<string, Group>();
  for (const { alert } of held) {
    const reason = alert.facts.find(({ name }) => name === REASON_FACT)?.value ?? '';
    const key = JSON.stringify([alert.subject, alert.type, reason]);
    const group = groups.get(key) ?? { subject: alert.subject, type: alert.type, reason, count: 0 };
    groups.set(key, { ...group, count: group.count + 1 });
  }
  return [...groups.values()].toSorted((left, right) => right.count - left.count);
}

/** The fact by which incidents of one agent differ in kind. */
const REASON_FACT = 'rule';

function factOf({ subject, type, reason, count }: Group): AlertFact {
  return { name: subject, value: `${count} × ${type}${reason === '' ? '' : ` (${reason})`}` };
}

type Place = { readonly id: string; readonly subject: string; readonly queuedAt: string };

function placeOf({ alert, queuedAtMs }: Spooled): Place {
  return { id: alert.id, subject: alert.subject, queuedAt: new Date(queuedAtMs).toISOString() };
}

function endsOf(data: {
  readonly groupsLeftOut: number;
  readonly first: Place;
  readonly last: Place;
}): readonly AlertFact[] {
  const ends = [
    { name: 'first', value: `${data.first.id} at ${data.first.queuedAt}` },
    { name: 'last', value: `${data.last.id} at ${data.last.queuedAt}` },
  ];
  if (data.groupsLeftOut === 0) return ends;
  return [{ name: 'and', value: `${data.groupsLeftOut} more agents or rules` }, ...ends];
}
