import { X509Certificate } from 'node:crypto';
import { mkdtemp, open, readdir, readFile, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { getCACertificates } from 'node:tls';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { specOf } from '../../test/support/launch-fixtures.ts';
import { createFakeEngine } from '../engine/fake.ts';
import type { EgressRule } from '../profile/spec.ts';
import { inspects, readImageTrust, TrustStore } from './trust.ts';

const RUN = 'rtest00000000';
const OTHER_RUN = 'rtest00000001';
const [rootA = '', rootB = '', ...others] = getCACertificates('bundled');
/** Stand for the authority of a run, as one certificate is as good as another here. */
const made = [`${others[0]}\n`, `${others[1]}\n`] as const;

let folder = '';
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'ringfence-trust-'));
});
afterEach(async () => {
  await rm(folder, { recursive: true });
});

describe('what an image trusts', () => {
  async function trustOf(contents: Readonly<Record<string, string>>, spec = specOf({}), env: readonly string[] = []) {
    const fake = createFakeEngine();
    fake.addImage('agent', { files: Object.keys(contents), contents, env });
    return await readImageTrust(fake.engine, await fake.engine.resolveImage('agent'), spec);
  }

  test('is the certificates of its first bundle, and every bundle is mounted over', async () => {
    const trust = await trustOf({
      '/etc/ssl/certs/ca-certificates.crt': `# root A\n${rootA}\nnoise\n${rootB}`,
      '/etc/pki/tls/certs/ca-bundle.crt': rootB,
      '/etc/ssl/cert.pem': 'no certificate in here',
    });
    expect(trust.bundles).toEqual(['/etc/ssl/certs/ca-certificates.crt', '/etc/pki/tls/certs/ca-bundle.crt']);
    expect(trust.certificatesPem.split('\n').filter((line) => line.startsWith('-----BEGIN'))).toHaveLength(2);
    expect(trust.certificatesPem).not.toMatch(/noise|root A/);
  });

  test('is the bundle that the image names itself, before any other', async () => {
    const contents = { '/etc/ssl/cert.pem': rootA, '/opt/own.pem': rootB };
    const trust = await trustOf(contents, specOf({}), ['PATH=/bin', 'SSL_CERT_FILE=/opt/own.pem']);
    expect(trust.bundles).toEqual(['/opt/own.pem', '/etc/ssl/cert.pem']);
    expect(new X509Certificate(trust.certificatesPem).fingerprint256).toBe(new X509Certificate(rootB).fingerprint256);
  });

  test('is the public roots where it has no bundle', async () => {
    const trust = await trustOf({});
    expect(trust.bundles).toEqual([]);
    expect(trust.certificatesPem).toContain(rootA);
  });

  test('is not written below a mount of the profile', async () => {
    const mounts = [{ hostPath: '/srv/ssl', path: '/etc/ssl', mode: 'rw' as const, sizeBytesMax: null }];
    const trust = await trustOf(
      { '/etc/ssl/cert.pem': rootA, '/etc/pki/tls/certs/ca-bundle.crt': rootA },
      specOf({ mounts }),
    );
    expect(trust.bundles).toEqual(['/etc/pki/tls/certs/ca-bundle.crt']);
  });
});

describe('the trust of a run', () => {
  const bundles = ['/etc/ssl/certs/ca-certificates.crt'];

  test('is a folder and a bundle that everybody may read and nobody is asked to write', async () => {
    const store = await TrustStore.open(join(folder, 'trust'));
    const { binds, locations } = await store.stage(RUN, { bundles, certificatesPem: rootA }, made[0]);
    const own = join(folder, 'trust', RUN);
    expect(binds).toEqual([
      { source: own, target: '/run/ringfence', readOnly: true },
      { source: join(own, 'bundle.pem'), target: '/etc/ssl/certs/ca-certificates.crt', readOnly: true },
    ]);
    expect(Object.keys(locations)).toEqual(binds.map(({ target }) => target));
    expect(await readFile(join(own, 'ca.pem'), 'utf8')).toBe(made[0]);
    expect(await readFile(join(own, 'bundle.pem'), 'utf8')).toBe(`${rootA}\n${made[0]}`);
    const modes = await Promise.all(
      [own, join(own, 'ca.pem'), join(own, 'bundle.pem')].map(async (path) => (await stat(path)).mode & 0o777),
    );
    expect(modes).toEqual([0o755, 0o644, 0o644]);
  });

  test('is replaced where it is, so that a container which has it mounted sees the new authority', async () => {
    const store = await TrustStore.open(join(folder, 'trust'));
    const before = await store.stage(RUN, { bundles, certificatesPem: `${rootA}\n${rootB}` }, made[0]);
    const mounted = await open(join(folder, 'trust', RUN, 'bundle.pem'));
    try {
      const after = await store.stage(RUN, { bundles, certificatesPem: rootA }, made[1]);
      expect(after).toEqual(before);
      expect(await mounted.readFile('utf8')).toBe(`${rootA}\n${made[1]}`);
    } finally {
      await mounted.close();
    }
    expect(await store.staged(RUN, { bundles, certificatesPem: '' })).toEqual(before);
  });

  test('goes with the run, and what a crash left goes with the next start', async () => {
    const store = await TrustStore.open(join(folder, 'trust'));
    for (const runId of [RUN, OTHER_RUN]) await store.stage(runId, { bundles, certificatesPem: rootA }, made[0]);
    expect(await store.collectGarbage(new Set([RUN]))).toEqual([OTHER_RUN]);
    await store.unstage(RUN);
    await store.unstage(RUN);
    expect(await readdir(join(folder, 'trust'))).toEqual([]);
  });
});

test('only a run with an inspected TLS port has an authority', () => {
  const rule = (inspect: boolean, check: 'tls' | 'http' | null): EgressRule => ({
    kind: 'name',
    text: 'a.example',
    name: 'a.example',
    wildcard: false,
    ports: [{ port: 443, protocol: 'tcp', check }],
    inspect,
    requests: [],
  });
  const withRules = (...allow: readonly EgressRule[]) => inspects(specOf({ egress: { allow, ask: [] } }));
  expect(withRules(rule(true, 'tls'))).toBe(true);
  expect(inspects(specOf({ egress: { allow: [], ask: [rule(true, 'tls')] } }))).toBe(true);
  expect([withRules(), withRules(rule(false, 'tls')), withRules(rule(true, 'http'))]).toEqual([false, false, false]);
});
