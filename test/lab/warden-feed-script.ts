import { execFileSync } from 'node:child_process';
import { FENCE_SETS } from '../../src/core/fence-names.ts';
import type { WardenReport } from '../../src/core/ports/warden.ts';
import { until } from '../support/until.ts';
import { launch, makeRun, startFixture, stopFixture } from '../support/warden-run.ts';

/**
 * Runs inside the host namespace of the test: a warden with the feed of denied packets, and one run whose shell sends
 * from the agent's namespace. Prints what the warden said and what is left, as one JSON value.
 */
export type FeedScriptInput = {
  readonly agentNamespace: string;
  readonly group: number;
  readonly bridge: string;
  readonly address: string;
  readonly subnet: string;
  /** What the agent runs, in its own network namespace. */
  readonly script: string;
  readonly denials: number;
};

export type FeedScriptOutput = {
  readonly feed: boolean;
  readonly reports: readonly WardenReport[];
  readonly bridgeSet: string;
  readonly pids: readonly number[];
};

const input = JSON.parse(process.argv[2] ?? '') as FeedScriptInput;
const fixture = await startFixture({
  nflogGroup: input.group,
  silenceSet: FENCE_SETS.bridge,
  trafficSets: { egress: FENCE_SETS.egress, ingress: FENCE_SETS.ingress, connections: FENCE_SETS.connections },
  egressHeldByKernel: true,
});
const run = await makeRun('all');
try {
  await launch(fixture, run, {
    script: `exec nsenter --net=${input.agentNamespace} sh -c '${input.script}'`,
    plan: {
      address: input.address,
      bridge: input.bridge,
      subnet: input.subnet,
      budgets: [
        { budget: 'denials', count: input.denials, windowMs: null, action: 'kill' },
        { budget: 'egress', limitBytes: 1_000_000, action: 'kill' },
      ],
    },
  });
  await until('the run is over', () => fixture.reports.some(({ kind }) => kind === 'emptied'), { deadlineMs: 10_000 });
  const output: FeedScriptOutput = {
    feed: fixture.warden.ready.feed,
    reports: fixture.reports,
    bridgeSet: execFileSync('ipset', ['list', FENCE_SETS.bridge], { encoding: 'utf8' }),
    pids: run.pids(),
  };
  process.stdout.write(JSON.stringify(output));
} finally {
  await run.release();
  fixture.warden.send({ kind: 'unwatch', runId: run.runId });
  await stopFixture(fixture);
}
