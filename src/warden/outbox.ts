import type { WardenReport } from '../core/ports/warden.ts';
import { sendSome, SystemCallError } from '../kernel/libc.ts';

/**
 * Reports on their way to the daemon. A daemon that does not read must not slow the kill path, so nothing waits here:
 * what does not fit is dropped, oldest first, samples and single denials only. Dropped denials are added to the
 * `suppressed` of the next one of the same run, so that no number is lost.
 */
export type Outbox = {
  push(report: WardenReport): void;
  /** Sends what the socket takes. `closed`: the daemon is gone, and what was waiting is given back. */
  flush(): 'empty' | 'waiting' | 'closed';
  waiting(): boolean;
  /** Takes out what was not sent, for the record of the time without a daemon. */
  drain(): readonly WardenReport[];
};

type Parcel = { readonly report: WardenReport; readonly bytes: Buffer };

export const QUEUE_BYTES_MAX = 4 * 1024 * 1024;
/** The samples of hundreds of runs fall together; they go in a few calls and not in hundreds. */
const SEND_BYTES_MAX = 32 * 1024;

export function createOutbox(fd: number): Outbox {
  let queue: Parcel[] = [];
  let bytesWaiting = 0;
  let sentOfFirst = 0;
  const droppedDenials = new Map<string, number>();

  const dropOldest = (): boolean => {
    // The first one may be on the wire already; half a line would spoil the next.
    const index = queue.findIndex((parcel, at) => isDroppable(parcel.report) && !(at === 0 && sentOfFirst > 0));
    const parcel = queue[index];
    if (parcel === undefined) return false;
    queue.splice(index, 1);
    bytesWaiting -= parcel.bytes.length;
    if (parcel.report.kind === 'denied') {
      const { runId, suppressed } = parcel.report;
      droppedDenials.set(runId, (droppedDenials.get(runId) ?? 0) + 1 + suppressed);
    }
    return true;
  };

  const isFull = (): boolean => bytesWaiting > QUEUE_BYTES_MAX;

  return {
    push: (report) => {
      const complete = withDropped(report, droppedDenials);
      const bytes = Buffer.from(`${JSON.stringify(complete)}\n`);
      queue.push({ report: complete, bytes });
      bytesWaiting += bytes.length;
      while (isFull() && dropOldest());
    },
    flush: () => {
      let done = 0;
      try {
        for (let full = false; done < queue.length && !full;) {
          const batch = batchFrom(queue, done);
          const taken = sendSome(fd, batch.subarray(sentOfFirst));
          full = sentOfFirst + taken < batch.length;
          sentOfFirst += taken;
          for (let first = queue[done]; first !== undefined && sentOfFirst >= first.bytes.length; first = queue[done]) {
            sentOfFirst -= first.bytes.length;
            bytesWaiting -= first.bytes.length;
            done += 1;
          }
        }
      } catch (error) {
        if (error instanceof SystemCallError && (error.code === 'EPIPE' || error.code === 'ECONNRESET'))
          return 'closed';
        throw error;
      } finally {
        queue = queue.slice(done);
      }
      return queue.length === 0 ? 'empty' : 'waiting';
    },
    waiting: () => queue.length > 0,
    drain: () => {
      const reports = queue.map((parcel) => parcel.report);
      queue = [];
      bytesWaiting = 0;
      sentOfFirst = 0;
      return reports;
    },
  };
}

/** The next parcels as one piece; always at least one. */
function batchFrom(queue: readonly Parcel[], start: number): Buffer {
  const parts: Buffer[] = [];
  let bytes = 0;
  for (let index = start; index < queue.length; index += 1) {
    const part = queue[index]?.bytes ?? Buffer.alloc(0);
    if (parts.length > 0 && bytes + part.length > SEND_BYTES_MAX) break;
    parts.push(part);
    bytes += part.length;
  }
  return parts.length === 1 ? (parts[0] ?? Buffer.alloc(0)) : Buffer.concat(parts, bytes);
}

/** A packet that waits is sent again, and then asked about again. */
const DROPPABLE: readonly WardenReport['kind'][] = ['sampled', 'denied', 'late', 'asked', 'turning'];

function isDroppable(report: WardenReport): boolean {
  return DROPPABLE.includes(report.kind);
}

function withDropped(report: WardenReport, dropped: Map<string, number>): WardenReport {
  if (report.kind !== 'denied') return report;
  const more = dropped.get(report.runId) ?? 0;
  dropped.delete(report.runId);
  return more === 0 ? report : { ...report, suppressed: report.suppressed + more };
}
