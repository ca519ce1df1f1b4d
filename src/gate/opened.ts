import { FENCE_SETS } from '../core/fence-names.ts';
import type { Ipset, IpsetEntry } from '../kernel/ipset.ts';
import { samePort } from '../profile/rules.ts';
import { entrySeconds } from './answer.ts';
import type { OpenPort } from './verdict.ts';

/** Addresses that one run can have open at a time; the kernel's sets hold far more, and all runs share them. */
export const OPEN_ENTRIES_MAX = 4_096;

/** What the gate changes in the kernel. */
export type EntrySets = Pick<Ipset, 'add' | 'remove' | 'list'>;

type SetName = typeof FENCE_SETS.learned | typeof FENCE_SETS.checked;

type Opened = {
  readonly set: SetName;
  readonly entry: IpsetEntry;
  readonly port: Pick<OpenPort, 'port' | 'protocol'>;
  /** Until when each name needs it: two names may lead to one address. */
  readonly untilMs: Map<string, number>;
};

export type Opening = {
  readonly name: string;
  readonly addresses: readonly string[];
  readonly ports: readonly OpenPort[];
  readonly ttlSeconds: number;
};

/**
 * What one run has open in the kernel, by the names that it was opened for. The kernel lets entries go by itself; this
 * is there so that they can be taken away earlier, and so that no run fills the sets.
 */
export class OpenedEntries {
  readonly #source: string;
  readonly #ipset: EntrySets;
  readonly #opened = new Map<string, Opened>();

  constructor(source: string, ipset: EntrySets) {
    this.#source = source;
    this.#ipset = ipset;
  }

  /** True when the kernel has acknowledged every entry. False: the door stays shut, the client hears of a failure. */
  open(opening: Opening, nowMs: number): boolean {
    const wanted = this.#entriesOf(opening, nowMs);
    if (!this.#hasRoomFor([...wanted.keys()], nowMs)) return false;
    try {
      for (const [key, { untilMs, ...fresh }] of wanted) {
        const opened: Opened = this.#opened.get(key) ?? { ...fresh, untilMs: new Map() };
        // Kept before the kernel is asked: an entry that it took without our knowing could not be taken away.
        this.#opened.set(key, opened);
        opened.untilMs.set(opening.name, untilMs);
        this.#renew(opened, nowMs);
      }
      return true;
    } catch {
      // A set that is full or gone.
      return false;
    }
  }

  /** Takes away what was opened for a name and is no longer among the ports it has now. Throws when the kernel does. */
  retain(portsOf: (name: string) => readonly OpenPort[], nowMs: number): void {
    for (const [key, opened] of this.#opened) {
      let isChanged = false;
      for (const [name, untilMs] of opened.untilMs) {
        const untilNowMs = untilMs <= nowMs ? null : stillUntil(opened, portsOf(name), untilMs);
        if (untilNowMs === untilMs) continue;
        isChanged = true;
        if (untilNowMs === null) opened.untilMs.delete(name);
        else opened.untilMs.set(name, untilNowMs);
      }
      if (opened.untilMs.size === 0) {
        this.#ipset.remove(opened.set, opened.entry);
        this.#opened.delete(key);
      } else if (isChanged) this.#renew(opened, nowMs);
    }
  }

  /** Takes away what is in the kernel and nobody here opened: a gate that died may have left it. */
  removeUnknown(): void {
    for (const set of [FENCE_SETS.learned, FENCE_SETS.checked] as const) {
      for (const { entry } of this.#ipset.list(set)) {
        if (entry.kind !== 'ip,port,ip' || entry.source !== this.#source) continue;
        if (!this.#opened.has(keyOf(set, entry))) this.#ipset.remove(set, entry);
      }
    }
  }

  #entriesOf(opening: Opening, nowMs: number): Map<string, Omit<Opened, 'untilMs'> & { readonly untilMs: number }> {
    const wanted = new Map<string, Omit<Opened, 'untilMs'> & { readonly untilMs: number }>();
    const longestMs = nowMs + entrySeconds(opening.ttlSeconds) * 1000;
    for (const port of opening.ports) {
      const set = setOf(port);
      for (const destination of opening.addresses) {
        const entry = {
          kind: 'ip,port,ip',
          source: this.#source,
          port: port.port,
          protocol: port.protocol,
          destination,
        } as const;
        wanted.set(keyOf(set, entry), {
          set,
          entry,
          port,
          untilMs: Math.min(longestMs, port.untilMs ?? longestMs),
        });
      }
    }
    return wanted;
  }

  /** The kernel's time-out is the one given last, so it is always the longest that any name needs. */
  #renew(opened: Opened, nowMs: number): void {
    const untilMs = Math.max(...opened.untilMs.values());
    // Rounded down, and never to 0, which would be for ever.
    const timeoutSeconds = Math.max(1, Math.floor((untilMs - nowMs) / 1000));
    this.#ipset.add(opened.set, opened.entry, { timeoutSeconds });
  }

  #hasRoomFor(keys: readonly string[], nowMs: number): boolean {
    if (this.#opened.size + keys.length <= OPEN_ENTRIES_MAX) return true;
    for (const [key, { untilMs }] of this.#opened) {
      if (Math.max(...untilMs.values()) <= nowMs) this.#opened.delete(key);
    }
    const fresh = keys.filter((key) => !this.#opened.has(key)).length;
    return this.#opened.size + fresh <= OPEN_ENTRIES_MAX;
  }
}

/** Until when a name that has these ports now still needs the entry; null when it does not. */
function stillUntil(opened: Opened, ports: readonly OpenPort[], untilMs: number): number | null {
  const port = ports.find((each) => samePort(each, opened.port) && setOf(each) === opened.set);
  return port === undefined ? null : Math.min(untilMs, port.untilMs ?? untilMs);
}

function keyOf(set: SetName, entry: Extract<IpsetEntry, { kind: 'ip,port,ip' }>): string {
  return `${set} ${entry.destination} ${entry.port}/${entry.protocol}`;
}

/** In the set `checked` the connection is led to the checker, in `learned` it goes straight to the address. */
function setOf(port: Pick<OpenPort, 'check'>): SetName {
  return port.check === null ? FENCE_SETS.learned : FENCE_SETS.checked;
}
