import { receiveNow } from '../kernel/libc.ts';

/** Lines from a socket without ever waiting: what has arrived is handed over, what is half there is kept. */
export type LineReader = {
  /** Calls back for each complete line, at most `READS_MAX` buffers full; `ended` once the other end is closed. */
  read(onLine: (line: string) => void): 'open' | 'ended';
  /** Lines that were longer than allowed and thrown away. */
  oversize(): number;
};

const READ_BYTES = 64 * 1024;
/** One flooding peer must not keep the loop from the other descriptors: the rest is there at the next turn. */
const READS_MAX = 4;
const NEWLINE = 10;

export function createLineReader(options: { readonly fd: number; readonly lineBytesMax: number }): LineReader {
  const input = Buffer.alloc(READ_BYTES);
  const line = Buffer.alloc(options.lineBytesMax);
  let length = 0;
  let skipping = false;
  let oversize = 0;
  const take = (bytes: Buffer, onLine: (line: string) => void): void => {
    let start = 0;
    while (start < bytes.length) {
      const newline = bytes.indexOf(NEWLINE, start);
      const end = newline === -1 ? bytes.length : newline;
      if (!skipping && length + (end - start) > line.length) {
        skipping = true;
        oversize += 1;
      }
      if (!skipping) length += bytes.copy(line, length, start, end);
      if (newline === -1) return;
      if (!skipping && length > 0) onLine(line.toString('utf8', 0, length));
      length = 0;
      skipping = false;
      start = newline + 1;
    }
  };
  return {
    oversize: () => oversize,
    read: (onLine) => {
      for (let count = 0; count < READS_MAX; count += 1) {
        const received = receiveNow(options.fd, input);
        if (received === null) return 'open';
        if (received === 0) return 'ended';
        take(input.subarray(0, received), onLine);
      }
      return 'open';
    },
  };
}
