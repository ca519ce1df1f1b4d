import { parseArgs } from 'node:util';
import { isMainThread, parentPort, Worker, workerData } from 'node:worker_threads';
import { openProfiles } from './profiles.ts';
import { simulate, type Simulated } from './simulate.ts';

/**
 * `node test/simulation/run.ts --seeds 10000 --from 1`: many lives of a host, on two threads. `--trace` shows what
 * happened in the ones that went wrong. Exit code 1 when there is one.
 */
const FAILURES_SHOWN_MAX = 20;

type Share = { readonly from: number; readonly seeds: number; readonly step: number };
type Report = {
  readonly failed: readonly Simulated[];
  readonly seeds: number;
  readonly runs: number;
  readonly records: number;
  readonly crashes: number;
};

async function simulateShare({ from, seeds, step }: Share): Promise<Report> {
  const world = openProfiles();
  const failed: Simulated[] = [];
  const sums = { seeds: 0, runs: 0, records: 0, crashes: 0 };
  try {
    for (let index = 0; index < seeds; index += 1) {
      const result = await simulate(from + index * step, world);
      sums.seeds += 1;
      sums.runs += result.runs;
      sums.records += result.records;
      sums.crashes += result.crashes;
      if (result.violations.length > 0 && failed.length < FAILURES_SHOWN_MAX) failed.push(result);
    }
  } finally {
    world.close();
  }
  return { failed, ...sums };
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      seeds: { type: 'string', default: '10000' },
      from: { type: 'string', default: '1' },
      threads: { type: 'string', default: '2' },
      trace: { type: 'boolean', default: false },
    },
  });
  const [seeds, from, threads] = [Number(values.seeds), Number(values.from), Number(values.threads)];
  const begun = performance.now();
  const shares = Array.from({ length: Math.min(threads, seeds) }, (_, index) => ({
    from: from + index,
    step: threads,
    seeds: Math.ceil((seeds - index) / threads),
  }));
  const reports = await Promise.all(shares.map((share) => inThread(share)));
  const seconds = (performance.now() - begun) / 1000;
  const sum = (key: 'seeds' | 'runs' | 'records' | 'crashes'): number =>
    reports.reduce((total, report) => total + report[key], 0);
  const failed = reports.flatMap((report) => report.failed).toSorted((left, right) => left.seed - right.seed);
  const lines = failed
    .slice(0, FAILURES_SHOWN_MAX)
    .flatMap(({ seed, violations, trace }) => [
      `seed ${seed}: ${violations.join('; ')}`,
      ...(values.trace ? trace.map((line) => `  ${line}`) : []),
    ]);
  lines.push(
    `${sum('seeds')} seeds from ${from}, ${sum('runs')} runs, ${sum('records')} records, ${sum('crashes')} crashes: ` +
      `${failed.length === 0 ? 'nothing' : `${failed.length} or more seeds`} went wrong, in ${seconds.toFixed(1)} s`,
  );
  process.stdout.write(`${lines.join('\n')}\n`);
  process.exitCode = failed.length === 0 ? 0 : 1;
}

function inThread(share: Share): Promise<Report> {
  const { promise, resolve, reject } = Promise.withResolvers<Report>();
  const worker = new Worker(new URL(import.meta.url), { workerData: share });
  worker.once('message', resolve);
  worker.once('error', reject);
  return promise;
}

if (isMainThread) await main();
else {
  // oxlint-disable-next-line unicorn/require-post-message-target-origin -- a port between threads has no origin
  parentPort?.postMessage(await simulateShare(workerData as Share));
}
