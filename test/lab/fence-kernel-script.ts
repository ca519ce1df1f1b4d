import { assertNever } from '../../src/core/assert.ts';
import { IpsetError, openIpset } from '../../src/kernel/ipset.ts';
import type { IpsetEntry, IpsetExtras } from '../../src/kernel/ipset.ts';
import { openNflog } from '../../src/kernel/nflog.ts';
import type { Nflog, NflogPacket } from '../../src/kernel/nflog.ts';
import { bootTimeMs, pollDescriptors, POLLIN } from '../../src/kernel/libc.ts';
import { createSocket } from 'node:dgram';

/**
 * Runs inside a namespace of a test, because a netlink socket belongs to the namespace of its process: performs the
 * steps of its first argument in order and prints what each gave.
 */
export type KernelStep =
  | {
      readonly step: 'add' | 'remove' | 'test';
      readonly set: string;
      readonly entry: IpsetEntry;
      readonly extras?: { readonly timeoutSeconds?: number; readonly bytes?: string };
    }
  | { readonly step: 'list' | 'counters'; readonly set: string }
  /** Holds a group until this script ends. */
  | { readonly step: 'hold'; readonly group: number }
  /**
   * Sends datagrams to this port of the loopback address, reads the feed until `quietMs` pass without a packet, then
   * sends and reads one more, whose number tells what was lost at the end.
   */
  | {
      readonly step: 'feed';
      readonly group: number;
      readonly port: number;
      readonly datagrams: number;
      readonly quietMs: number;
    };

const steps = JSON.parse(process.argv[2] ?? '[]') as KernelStep[];
const ipset = openIpset();
const held: Nflog[] = [];
const results: unknown[] = [];
for (const step of steps) {
  try {
    results.push(await perform(step));
  } catch (error) {
    results.push({ error: error instanceof IpsetError ? error.code : String(error) });
  }
}
ipset.close();
process.stdout.write(
  JSON.stringify(results, (_, value: unknown) => (typeof value === 'bigint' ? String(value) : value)),
);

async function perform(step: KernelStep): Promise<unknown> {
  switch (step.step) {
    case 'add': {
      const bytes = step.extras?.bytes;
      const extras: IpsetExtras = {
        ...(step.extras?.timeoutSeconds === undefined ? {} : { timeoutSeconds: step.extras.timeoutSeconds }),
        ...(bytes === undefined ? {} : { bytes: BigInt(bytes) }),
      };
      ipset.add(step.set, step.entry, extras);
      return 'added';
    }
    case 'remove':
      ipset.remove(step.set, step.entry);
      return 'removed';
    case 'test':
      return ipset.test(step.set, step.entry);
    case 'list':
      return ipset.list(step.set);
    case 'counters':
      return [...ipset.counters(step.set)];
    case 'hold':
      held.push(openNflog({ group: step.group }));
      return 'held';
    case 'feed':
      return await feed(step);
    default:
      return assertNever(step);
  }
}

async function feed(step: Extract<KernelStep, { step: 'feed' }>): Promise<unknown> {
  const nflog = openNflog({ group: step.group });
  const packets: NflogPacket[] = [];
  await send(step.port, step.datagrams);
  drain(nflog, step.quietMs, packets);
  await send(step.port, 1);
  drain(nflog, step.quietMs, packets);
  const lost = nflog.lost();
  nflog.close();
  return { received: packets.length, lost, first: packets[0] ?? null };
}

async function send(port: number, datagrams: number): Promise<void> {
  const sender = createSocket('udp4');
  for (let sent = 0; sent < datagrams; sent += 1) {
    await new Promise<void>((resolve) => {
      sender.send('hello', port, '127.0.0.1', () => resolve());
    });
  }
  sender.close();
}

function drain(nflog: Nflog, quietMs: number, packets: NflogPacket[]): void {
  const until = bootTimeMs() + 10_000;
  while (bootTimeMs() < until) {
    if ((pollDescriptors([{ fd: nflog.fd, events: POLLIN }], quietMs)[0] ?? 0) === 0) return;
    packets.push(...nflog.read());
  }
}
