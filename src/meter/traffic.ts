import type { Ipset } from '../kernel/ipset.ts';

/**
 * Bytes that a run sent and received, from the counters that the fence keeps for each source address. One dump of a
 * set serves all runs, so a reading may be as old as its caller allows.
 */
export type Traffic = {
  of(address: string, at: { readonly nowMs: number; readonly ageMsMax: number }): RunTraffic;
};

export type RunTraffic = {
  readonly egressBytes: number;
  readonly ingressBytes: number;
  readonly connections: number;
};

const NONE: RunTraffic = { egressBytes: 0, ingressBytes: 0, connections: 0 };

export function createTraffic(options: {
  readonly ipset: Pick<Ipset, 'counters'>;
  readonly egressSet: string;
  readonly ingressSet: string;
  readonly connectionsSet: string;
  /**
   * True when these numbers are only reported, because the kernel holds the budget: then a set that is being made anew
   * leaves them as they were. False: what cannot be read is thrown.
   */
  readonly onlyReported: boolean;
}): Traffic {
  let readAtMs = Number.NEGATIVE_INFINITY;
  const byAddress = new Map<string, RunTraffic>();
  const refresh = (): void => {
    const egress = options.ipset.counters(options.egressSet);
    const ingress = options.ipset.counters(options.ingressSet);
    const connections = options.ipset.counters(options.connectionsSet);
    byAddress.clear();
    for (const [address, counters] of egress) {
      byAddress.set(address, {
        egressBytes: Number(counters.bytes),
        ingressBytes: Number(ingress.get(address)?.bytes ?? 0n),
        connections: Number(connections.get(address)?.packets ?? 0n),
      });
    }
  };
  return {
    of: (address, { nowMs, ageMsMax }) => {
      if (nowMs - readAtMs >= ageMsMax) {
        readAtMs = nowMs;
        try {
          refresh();
        } catch (error) {
          if (!options.onlyReported) throw error;
        }
      }
      return byAddress.get(address) ?? NONE;
    },
  };
}
