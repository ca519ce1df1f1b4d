/**
 * One of those that `sampling.ts` puts beside the warden: KIND and the engine's socket as arguments, what it shall look at
 * as a line of JSON on standard input. It writes how many samples it has got, a line each time.
 */
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { setInterval } from 'node:timers/promises';
import pidusage from 'pidusage';
import { processes } from 'systeminformation';
import { openBenchEngine } from '../support/bench-containers.ts';

const EVERY_MS = 1_000;
const [kind, socket = ''] = process.argv.slice(2);
const [line] = (await once(createInterface({ input: process.stdin }), 'line')) as [string];
const subjects = JSON.parse(line) as (string | number)[];

if (kind === 'stats') {
  const engine = openBenchEngine(socket);
  await Promise.all(subjects.map((id) => engine.follow(String(id), () => told(1))));
} else {
  for await (const _ of setInterval(EVERY_MS)) told(await look());
}

async function look(): Promise<number> {
  if (kind === 'pidusage') return Object.keys(await pidusage(subjects.map(Number))).length;
  const wanted = new Set(subjects.map(Number));
  const { list } = await processes();
  return list.filter(({ pid }) => wanted.has(pid)).length;
}

function told(samples: number): void {
  process.stdout.write(`${samples}\n`);
}
