import { execFileSync } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { FENCE_SETS } from '../../src/core/fence-names.ts';
import type { BudgetPlan, NameResolved, WardenReport } from '../../src/core/ports/warden.ts';
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
  /** Beside those of `denials` and of bytes that leave. */
  readonly budgets: readonly BudgetPlan[];
  /** What the gate says of the names that it answered. */
  readonly names: Readonly<Record<string, readonly string[]>>;
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
const go = join(fixture.directory, 'go');
try {
  await launch(fixture, run, {
    script: `until [ -e ${go} ]; do sleep 0.02; done; exec nsenter --net=${input.agentNamespace} sh -c '${input.script}'`,
    plan: {
      address: input.address,
      bridge: input.bridge,
      subnet: input.subnet,
      budgets: [
        { budget: 'denials', count: input.denials, windowMs: null, action: 'kill' },
        { budget: 'egress', limitBytes: 1_000_000, action: 'kill' },
        ...input.budgets,
      ],
    },
  });
  for (const [name, addresses] of Object.entries(input.names)) {
    const resolved: NameResolved = { kind: 'resolved', address: input.address, name, addresses };
    fixture.warden.feedSocket.write(`${JSON.stringify(resolved)}\n`);
  }
  // Two answers: the turn of the loop between them has read what was written before the first.
  await fixture.warden.sample(run.runId);
  await fixture.warden.sample(run.runId);
  writeFileSync(go, '');
  await until('the run is over', () => fixture.reports.some(({ kind }) => kind === 'emptied'), { deadlineMs: 20_000 });
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
