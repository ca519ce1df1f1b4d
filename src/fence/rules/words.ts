import { FENCE_BRIDGE_PREFIX } from '../../core/fence-names.ts';

/** `open`: may pass. `check`: may go to the checker, nowhere else. `deny`: refused. Never two of them. */
export type FenceMarks = { readonly open: number; readonly deny: number; readonly check: number };
export const FENCE_MARKS: FenceMarks = { open: 0x0200_0000, deny: 0x0400_0000, check: 0x0800_0000 };

export type RuleOptions = {
  readonly pool: string;
  readonly gatePort: number;
  readonly checkPort: number;
  readonly nflogGroup: number;
  readonly marks: FenceMarks;
  /** New connections of one run; twice as many at a stroke. */
  readonly connectionsPerSecondMax: number;
};

export type Table = 'raw' | 'mangle' | 'nat' | 'filter' | 'security';

/** One table of one family: our chains with their rules, and the jumps that lead to them from built-in chains. */
export type TableRules = {
  readonly family: 4 | 6;
  readonly table: Table;
  readonly chains: readonly Chain[];
  /** Each belongs at the top of its chain, the first one above the second. */
  readonly jumps: readonly Jump[];
};
export type Chain = { readonly name: string; readonly rules: readonly string[] };
/** `anywhere`: other tools may push it down without harm, because nothing depends on it. */
export type Jump = { readonly chain: string; readonly rule: string; readonly anywhere: boolean };

export const FROM_RUNS = `-i ${FENCE_BRIDGE_PREFIX}+`;
export const NOT_FROM_RUNS = `! -i ${FENCE_BRIDGE_PREFIX}+`;
export const TO_RUNS = `-o ${FENCE_BRIDGE_PREFIX}+`;
export const NOT_TO_RUNS = `! -o ${FENCE_BRIDGE_PREFIX}+`;

const FEED_BYTES = 96;
/** The first hundred refusals of a run are each reported; a flood is a hundred and then fifty a second, the rest a count. */
const FEED_LIMIT = '--hashlimit-upto 50/sec --hashlimit-burst 100';
/** Forged sources are not worth a bucket each, since an agent can make up four billion. */
export const SPOOF_LIMIT = '-m limit --limit 100/sec --limit-burst 200';

/** For each run by itself, by the side of the packet on which it is. */
export function limited(bucket: string, side: 'srcip' | 'dstip' = 'srcip'): string {
  return `-m hashlimit ${FEED_LIMIT} --hashlimit-mode ${side} --hashlimit-name ${bucket}`;
}

/** A threshold of one packet: otherwise the kernel holds reports back for up to a second. */
export function feed(options: RuleOptions, prefix: string): string {
  return `-j NFLOG --nflog-prefix "${prefix}" --nflog-group ${options.nflogGroup} --nflog-size ${FEED_BYTES} --nflog-threshold 1`;
}

export function top(chain: string, rule: string): Jump {
  return { chain, rule, anywhere: false };
}

/** Matches packets that carry this mark of ours, whatever else they carry. */
export function marked(mark: number): string {
  return `-m mark --mark ${hex(mark)}/${hex(mark)}`;
}

/** Matches packets of connections that were admitted with this mark. */
export function admitted(mark: number): string {
  return `-m connmark --mark ${hex(mark)}/${hex(mark)}`;
}

/** Gives a packet this mark of ours and takes the others away. Bits that are not ours stay as they are. */
export function setMark(marks: FenceMarks, mark: number): string {
  return `-j MARK --set-xmark ${hex(mark)}/${hex(allMarks(marks))}`;
}

export function allMarks({ open, deny, check }: FenceMarks): number {
  return open | deny | check;
}

export function hex(value: number): string {
  return `0x${(value >>> 0).toString(16)}`;
}

/** At once, in the protocol that was spoken; but nothing is said to a group. */
export function refusal(): string[] {
  return [
    '-m addrtype --dst-type MULTICAST -j DROP',
    '-m addrtype --dst-type BROADCAST -j DROP',
    '-p tcp -j REJECT --reject-with tcp-reset',
    '-j REJECT --reject-with icmp-admin-prohibited',
  ];
}
