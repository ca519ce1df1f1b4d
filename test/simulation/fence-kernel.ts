import type { FenceGrant, FenceLease } from '../../src/core/ports/fence.ts';

type Armed = { readonly grant: FenceGrant; silenced: boolean };

/** What the kernel and the state file of the fence hold. Rules are compared by their text, as the profile wrote them. */
export class FenceKernel {
  readonly leases = new Map<string, FenceLease>();
  readonly armed = new Map<string, Armed>();

  lease(runId: string): FenceLease {
    const known = this.leases.get(runId);
    if (known !== undefined) return known;
    const taken = new Set([...this.leases.values()].map(({ address }) => address));
    for (let index = 0; ; index += 1) {
      const subnet = `10.213.0.${index * 4}`;
      const address = `10.213.0.${index * 4 + 2}`;
      if (taken.has(address)) continue;
      const gateway = `10.213.0.${index * 4 + 1}`;
      const lease = { runId, bridge: `rf-${runId.slice(1)}`, subnet: `${subnet}/30`, gateway, address };
      this.leases.set(runId, lease);
      return lease;
    }
  }

  /** What this run can reach at this moment. */
  openOf(runId: string): readonly string[] {
    const armed = this.armed.get(runId);
    return armed === undefined || armed.silenced ? [] : textsOf(armed.grant);
  }

  arm(grant: FenceGrant): void {
    this.armed.set(grant.lease.runId, { grant, silenced: false });
  }

  silence(runId: string): void {
    const armed = this.armed.get(runId);
    if (armed !== undefined) armed.silenced = true;
  }

  forget(runId: string): void {
    this.armed.delete(runId);
    this.leases.delete(runId);
  }

  /** Leases are on disk, entries were in the kernel. */
  reboot(): void {
    this.armed.clear();
  }
}

function textsOf({ names, addresses }: FenceGrant): readonly string[] {
  return [...names, ...addresses].map(({ text }) => text);
}
