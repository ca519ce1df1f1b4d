import { readSync, writeSync } from 'node:fs';
import { OOM_SCORES, protectFromOom } from '../kernel/oom.ts';
import { comeBehind } from '../kernel/priority.ts';
import { createLooker, type LookRequest } from './command-lines-look.ts';

/**
 * The process that reads command lines: requests at descriptor 0, reports at 1, one JSON value a line. One thread and
 * no event loop, so that what it is about to do is told before it does it. It may hang for as long as an agent likes; the
 * daemon kills it then and starts another.
 */
const REQUESTS_FD = 0;
const REPORTS_FD = 1;
const REQUEST_BYTES_MAX = 16 * 1024 * 1024;

function main(): void {
  comeBehind();
  protectFromOom(OOM_SCORES.reader);
  const look = createLooker((report) => writeAll(Buffer.from(`${JSON.stringify(report)}\n`)));
  const chunk = Buffer.alloc(64 * 1024);
  let rest = '';
  for (let bytes = read(chunk); bytes > 0; bytes = read(chunk)) {
    rest += chunk.toString('utf8', 0, bytes);
    if (rest.length > REQUEST_BYTES_MAX) return;
    const lines = rest.split('\n');
    rest = lines.pop() ?? '';
    for (const line of lines) look(JSON.parse(line) as LookRequest);
  }
}

/** Zero when the daemon is gone. */
function read(chunk: Buffer): number {
  return readSync(REQUESTS_FD, chunk, 0, chunk.length, null);
}

function writeAll(bytes: Buffer): void {
  for (let written = 0; written < bytes.length;) written += writeSync(REPORTS_FD, bytes, written);
}

main();
