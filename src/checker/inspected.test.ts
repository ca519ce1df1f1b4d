import { execa } from 'execa';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { createServer, request } from 'node:https';
import type { Server } from 'node:https';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { until } from '../../test/support/until.ts';
import { LOOPBACK, opened, startChecker } from './testing.ts';
import type { CheckedWorld } from './testing.ts';
import { createInspector } from './inspect/inspector.ts';

/** The checker and the real inspector together: what one has read, the other begins with. */
const WAIT = { deadlineMs: 10_000 };

let world: CheckedWorld;
let site: Server;
let authority: string;
const paths: string[] = [];

beforeAll(async () => {
  const folder = mkdtempSync(join(tmpdir(), 'rf-inspected-'));
  const [key, cert] = [join(folder, 'key.pem'), join(folder, 'cert.pem')];
  const subject = ['-subj', '/CN=good.test', '-addext', 'subjectAltName=DNS:good.test'];
  const curve = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1'];
  await execa('openssl', ['req', '-x509', ...curve, '-nodes', '-keyout', key, '-out', cert, '-days', '1', ...subject]);
  const secrets = { key: readFileSync(key, 'utf8'), cert: readFileSync(cert, 'utf8') };
  rmSync(folder, { recursive: true, force: true });
  site = createServer(secrets, (incoming, response) => {
    paths.push(incoming.url ?? '');
    response.end(`hello from ${incoming.url ?? ''}`);
  });
  await new Promise<void>((resolve) => site.listen(0, LOOPBACK, resolve));
  const inspector = createInspector({ upstreamCa: [secrets.cert] });
  authority = await inspector.authority(LOOPBACK, 'rinspected001');
  world = await startChecker({ inspector });
  world.destination = { address: '203.0.113.9', port: (site.address() as AddressInfo).port };
  const requests = [{ text: 'GET /v1/*', method: 'GET', path: '/v1/', pathPrefix: true }];
  world.verdict = (question) => ({ ...opened(question), inspect: true, requests }) as ReturnType<typeof opened>;
});
afterAll(async () => {
  await world.checker.stop();
  site.closeAllConnections();
  site.close();
});

async function fetched(path: string): Promise<{ readonly status: number; readonly body: string }> {
  return await new Promise((resolve, reject) => {
    const options = { host: LOOPBACK, port: world.port, servername: 'good.test', ca: authority, agent: false, path };
    request({ ...options, headers: { Host: 'good.test' } }, (response) => {
      let body = '';
      response.on('data', (chunk: Buffer) => (body += chunk.toString()));
      response.on('end', () => resolve({ status: response.statusCode ?? 0, body }));
    })
      .on('error', reject)
      .end();
  });
}

test('lets a request of an inspected name pass, refuses another one, and counts both ways', async () => {
  expect(await fetched('/v1/a')).toEqual({ status: 200, body: 'hello from /v1/a' });
  expect((await fetched('/v2/a')).status).toBe(403);
  expect(paths).toEqual(['/v1/a']);
  await until('both are over', () => world.checker.connections() === 0, WAIT);
  world.checker.flush();
  const denied = world.reports.filter(({ kind }) => kind === 'denied');
  expect(denied).toMatchObject([{ rule: 'check.request', destination: 'good.test' }]);
  const passed = world.reports.find((report) => report.kind === 'passed');
  expect(passed).toMatchObject({ name: 'good.test', connections: 2 });
  expect(passed?.kind === 'passed' && passed.egressBytes > 500 && passed.ingressBytes > 500).toBe(true);
});
