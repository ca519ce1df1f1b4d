import { spawn } from 'node:child_process';
import { chmodSync, readdirSync, readFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { expect, test } from 'vitest';
import type { RunView } from '../../src/api/service.ts';
import { useBurner } from '../support/burner.ts';
import { SHELL, useSupervised } from '../support/supervised.ts';
import { until } from '../support/until.ts';

/** A user who may open the socket does everything with it but what it is for; root and the agents notice nothing. */
const STRANGER = 54_321;
/** The group `daemon` of every Debian. */
const GROUP = { name: 'daemon', id: 1 };
const world = useSupervised({ config: { socket: { mode: '0660', group: GROUP.name } } });
const burner = useBurner();
const DEADLINE_MS = 60_000;
const CONNECTIONS_MIN = 2_000;
const MEMORY_KIB_MAX = 300 * 1024;

/** Silent, half, never reading, dripping, too large, too deep; each again as soon as it is closed. */
const HOSTILE = `
const net = require('node:net');
const path = process.argv[1];
const post = 'POST /v1/runs HTTP/1.1\\r\\nContent-Type: application/json\\r\\n';
let made = 0;
const one = (kind) => {
  const socket = net.connect(path);
  made += 1;
  socket.on('error', () => undefined);
  socket.on('close', () => setTimeout(one, 100, kind));
  const write = (bytes) => { if (socket.writable) socket.write(bytes); };
  if (kind === 1) write('GET /v1/runs HT');
  if (kind === 2) { socket.pause(); write('GET /v1/events?follow=true HTTP/1.1\\r\\n\\r\\n'); }
  if (kind === 3) {
    write(post + 'Transfer-Encoding: chunked\\r\\n\\r\\n');
    const drip = setInterval(() => write('1\\r\\n[\\r\\n'), 200);
    socket.on('close', () => clearInterval(drip));
  }
  if (kind === 4) write(post + 'Content-Length: 9000000\\r\\n\\r\\n' + 'x'.repeat(3_000_000));
  if (kind === 5) write(post + 'Content-Length: 1000000\\r\\n\\r\\n' + '['.repeat(1_000_000));
  if (kind === 6) socket.end('GET /v1/doctor HTTP/1.1\\r\\n\\r\\n');
};
for (let index = 0; index < 480; index += 1) one(index % 7);
setInterval(() => console.log(made), 500);
`;

test(
  'a flood of bad clients of another user costs neither root an answer nor an agent its bound',
  { timeout: 300_000 },
  async () => {
    chmodSync(dirname(world.daemon.socket), 0o755);
    const filesBefore = filesOf(world.daemon.pid);
    const burning = await world.start(burner.draft('burning'));
    const identity = [`--reuid=${STRANGER}`, `--regid=${GROUP.id}`, '--clear-groups'];
    const flood = spawn('setpriv', [...identity, process.execPath, '-e', HOSTILE, world.daemon.socket], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    let made = 0;
    flood.stdout.on('data', (bytes: Buffer) => (made = Number(bytes.toString().trim().split('\n').at(-1))));
    try {
      await until(
        'there were thousands of connections',
        async () => {
          expect(await world.ringfence('ps', '--json')).toContain('"runId"');
          return made >= CONNECTIONS_MIN;
        },
        { deadlineMs: DEADLINE_MS },
      );
      burner.burn('burning');
      const { outcome } = await world.wait(burning.runId);
      expect(outcome).toMatchObject({ reason: 'budget.cpu' });
      const again = await world.run({ name: 'meanwhile', command: SHELL('exit 3'), budget: { wall: '10m' } });
      expect(again.exitCode).toBe(3);
      expect(memoryKibOf(world.daemon.pid)).toBeLessThan(MEMORY_KIB_MAX);
    } finally {
      flood.kill('SIGKILL');
    }
    const runs = JSON.parse(await world.ringfence('ps', '--all', '--json')) as RunView[];
    expect(runs.map(({ profile }) => profile).toSorted()).toEqual(['burning', 'meanwhile']);
    await until('the descriptors are given back', () => filesOf(world.daemon.pid) <= filesBefore + 4, {
      deadlineMs: DEADLINE_MS,
    });
  },
);

const filesOf = (pid: number): number => readdirSync(`/proc/${pid}/fd`).length;

function memoryKibOf(pid: number): number {
  return Number(/^VmRSS:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, 'latin1'))?.[1]);
}
