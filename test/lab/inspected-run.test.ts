import { expect, test } from 'vitest';
import { useShells } from '../support/agent-shell.ts';
import { lab, mark, observed, type Mark } from '../support/lab.ts';
import { useSupervised } from '../support/supervised.ts';
import { until } from '../support/until.ts';

/** Inspection as a user meets it: written in a profile, launched by the daemon, judged at the site. */
// The site of the lab has a certificate of the lab's authority, so the daemon must trust that.
process.env['SSL_CERT_FILE'] = lab.ca;
const world = useSupervised();
const openShell = useShells(world);

const SITE = 'docs.example.test';
const PROFILE = {
  name: 'inspected',
  egress: { allow: [{ to: SITE, inspect: true, requests: ['GET /v1/*'] }] },
  budget: { denials: '1000/1m' },
};
const curl = (more: string): string =>
  `curl -sS --max-time 20 -o /dev/null -w 'said %{http_code}\\n' ${more} 2>&1; echo over`;

async function requestsAt(since: Mark): Promise<readonly string[]> {
  const seen = await observed({ since });
  return seen.filter(({ event }) => event === 'request').map(({ detail }) => detail);
}

test('a listed request passes, another is refused and counted, and a new gate vouches anew', async () => {
  const { run, type } = await openShell(PROFILE);
  const since = await mark();
  expect(await type(curl(`https://${SITE}/v1/one`))).toContain('said 200');
  expect(await type(curl(`-X POST https://${SITE}/v1/two`))).toContain('said 403');
  expect(await requestsAt(since)).toEqual([`GET ${SITE}/v1/one`]);
  const denied = async () =>
    (await world.records(run.runId)).find(({ kind, denial }) => {
      return kind === 'egress.denied' && (denial as { rule: string }).rule === 'check.request';
    });
  expect(
    await until('the refusal is on record', async () => (await denied()) ?? null, { deadlineMs: 10_000 }),
  ).toMatchObject({
    denial: { destination: SITE, port: 443 },
  });
  process.kill(await gatePid(), 'SIGKILL');
  const again = await until(
    'the run trusts the new authority',
    async () => ((await type(curl(`https://${SITE}/v1/three`))).includes('said 200') ? true : null),
    { deadlineMs: 30_000 },
  );
  expect(again).toBe(true);
  expect(await requestsAt(since)).toContain(`GET ${SITE}/v1/three`);
});

/** The child of the daemon that runs the gate. */
async function gatePid(): Promise<number> {
  const { readdirSync, readFileSync } = await import('node:fs');
  const pids = readdirSync('/proc').filter((name) => /^\d+$/.test(name));
  const found = pids.find((pid) => {
    try {
      const argv = readFileSync(`/proc/${pid}/cmdline`, 'utf8');
      const parent = /^PPid:\s+(\d+)$/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1];
      return argv.includes('gate/process') && Number(parent) === world.daemon.pid;
    } catch {
      return false;
    }
  });
  if (found === undefined) throw new Error('the daemon has no gate');
  return Number(found);
}
