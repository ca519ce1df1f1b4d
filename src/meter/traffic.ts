import { closeSync, openSync, readSync } from 'node:fs';

/**
 * Bytes that crossed a run's bridge, from /proc/net/dev of this process's own network namespace (a mounted /sys may
 * show another one). One reading serves all runs. What the agent sends is received by the bridge, and the other way.
 */
export type Traffic = {
  /** Zeroes while there is no such device. */
  of(device: string, nowMs: number): DeviceTraffic;
  close(): void;
};

export type DeviceTraffic = { readonly egressBytes: number; readonly ingressBytes: number };

const NONE: DeviceTraffic = { egressBytes: 0, ingressBytes: 0 };
const READ_EVERY_MS = 20;
const ETHERNET_HEADER_BYTES = 14;
/** Room for some thousand devices; what is beyond is not a run's. */
const BYTES_MAX = 1024 * 1024;
const PART_BYTES = 64 * 1024;

export function openTraffic(options: { readonly file: string; readonly prefix: string }): Traffic {
  const fd = openSync(options.file, 'r');
  const buffer = Buffer.alloc(BYTES_MAX);
  let readAtMs = Number.NEGATIVE_INFINITY;
  let devices = new Map<string, DeviceTraffic>();
  return {
    of: (device, nowMs) => {
      if (nowMs - readAtMs >= READ_EVERY_MS) {
        devices = parseDevices(buffer.toString('latin1', 0, readAll(fd, buffer)), options.prefix);
        readAtMs = nowMs;
      }
      return devices.get(device) ?? NONE;
    },
    close: () => closeSync(fd),
  };
}

/** seq_file hands out a page or so at a time, so one read is not the whole file. */
function readAll(fd: number, buffer: Buffer): number {
  let length = 0;
  while (length < buffer.length) {
    const count = readSync(fd, buffer, length, Math.min(PART_BYTES, buffer.length - length), length);
    if (count === 0) break;
    length += count;
  }
  return length;
}

/** Only devices with the prefix: the others are none of ours. */
export function parseDevices(text: string, prefix: string): Map<string, DeviceTraffic> {
  const devices = new Map<string, DeviceTraffic>();
  for (const line of text.split('\n')) {
    const colon = line.indexOf(':');
    if (colon === -1) continue;
    const name = line.slice(0, colon).trim();
    if (!name.startsWith(prefix)) continue;
    const fields = line
      .slice(colon + 1)
      .trim()
      .split(/\s+/);
    // A bridge counts what it receives without the Ethernet header and what it sends with it.
    const sentPackets = Number(fields[9] ?? 0);
    const ingressBytes = Math.max(0, Number(fields[8] ?? 0) - sentPackets * ETHERNET_HEADER_BYTES);
    devices.set(name, { egressBytes: Number(fields[0] ?? 0), ingressBytes });
  }
  return devices;
}
