import { parseArgs } from 'node:util';
import { isMainThread, parentPort, Worker, workerData } from 'node:worker_threads';
import { TARGETS, tryInput, type FuzzTarget } from './targets.ts';

/**
 * `node test/fuzz/run.ts --inputs 1000000 --from 1`: so many inputs, shared out over the parsers, on two threads.
 * Prints the number and the bytes of each input that went wrong; exit code 1 when there is one.
 */
const FOUND_MAX = 20;
/** An input takes microseconds, some milliseconds at most; more than this on a busy machine is a hang in the making. */
const INPUT_MS_MAX = 1_000;
/** A thread that says nothing for this long hangs on the input that it named last. */
const SILENT_MS_MAX = 30_000;
const BATCH = 200;

type Share = { readonly from: number; readonly inputs: number; readonly step: number };
type Found = { readonly target: string; readonly number: number; readonly found: string; readonly hex: string };
type Message =
  | { readonly kind: 'at'; readonly target: string; readonly number: number }
  | {
      readonly kind: 'done';
      readonly found: readonly Found[];
      readonly counts: Readonly<Record<string, number>>;
      readonly slowestMs: number;
    };

async function fuzzShare({ from, inputs, step }: Share, say: (message: Message) => void): Promise<void> {
  const found: Found[] = [];
  const counts: Record<string, number> = {};
  let slowestMs = 0;
  for (const target of TARGETS) {
    const count = Math.ceil((inputs * target.share) / shares());
    counts[target.name] = count;
    for (let index = 0; index < count; index += 1) {
      const number = from + index * step;
      if (index % BATCH === 0) say({ kind: 'at', target: target.name, number });
      let { result, tookMs } = await timed(target, number);
      // A busy machine is slow once; a parser that hangs is slow again.
      if (tookMs > INPUT_MS_MAX) ({ result, tookMs } = await timed(target, number));
      slowestMs = Math.max(slowestMs, tookMs);
      const wrong = result.found ?? (tookMs > INPUT_MS_MAX ? `took ${tookMs.toFixed(0)} ms` : null);
      if (wrong === null || found.length >= FOUND_MAX) continue;
      found.push({ target: target.name, number, found: wrong, hex: result.input.toString('hex') });
    }
  }
  say({ kind: 'done', found, counts, slowestMs });
}

async function timed(target: FuzzTarget, number: number) {
  const begun = performance.now();
  const result = await tryInput(target, number);
  return { result, tookMs: performance.now() - begun };
}

function shares(): number {
  return TARGETS.reduce((sum, { share }) => sum + share, 0);
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      inputs: { type: 'string', default: '1000000' },
      from: { type: 'string', default: '1' },
      threads: { type: 'string', default: '2' },
    },
  });
  const [inputs, from, threads] = [Number(values.inputs), Number(values.from), Number(values.threads)];
  const begun = performance.now();
  const done = await Promise.all(
    Array.from({ length: threads }, (_, index) =>
      inThread({ from: from + index, step: threads, inputs: inputs / threads }),
    ),
  );
  const seconds = (performance.now() - begun) / 1000;
  const found = done.flatMap((each) => each.found);
  const perTarget = TARGETS.map(
    ({ name }) => `${name} ${done.reduce((sum, { counts }) => sum + (counts[name] ?? 0), 0)}`,
  );
  const total = done.flatMap(({ counts }) => Object.values(counts)).reduce((sum, count) => sum + count, 0);
  const slowestMs = Math.max(...done.map((each) => each.slowestMs));
  const lines = [
    ...found.map((each) => `${each.target} ${each.number}: ${each.found}\n  ${each.hex.slice(0, 2_000)}`),
    perTarget.join(', '),
    `${total} inputs from ${from}: ${found.length} went wrong, in ${seconds.toFixed(1)} s, the slowest took ${slowestMs.toFixed(0)} ms`,
  ];
  process.stdout.write(`${lines.join('\n')}\n`);
  process.exitCode = found.length === 0 ? 0 : 1;
}

type Done = Extract<Message, { readonly kind: 'done' }>;

function inThread(share: Share): Promise<Done> {
  const { promise, resolve, reject } = Promise.withResolvers<Done>();
  const worker = new Worker(new URL(import.meta.url), { workerData: share });
  let at = 'the beginning';
  const hang = (): void => reject(new Error(`nothing was heard for ${SILENT_MS_MAX / 1000} s after ${at}`));
  let timer = setTimeout(hang, SILENT_MS_MAX);
  worker.on('message', (message: Message) => {
    clearTimeout(timer);
    if (message.kind === 'done') resolve(message);
    else {
      at = `${message.target} ${message.number}`;
      timer = setTimeout(hang, SILENT_MS_MAX);
    }
  });
  worker.once('error', reject);
  return promise.finally(() => {
    clearTimeout(timer);
    // It has said what it had to say, or hangs.
    void worker.terminate();
  });
}

if (isMainThread) await main();
else {
  // oxlint-disable-next-line unicorn/require-post-message-target-origin -- a port between threads has no origin
  await fuzzShare(workerData as Share, (message) => parentPort?.postMessage(message));
}
