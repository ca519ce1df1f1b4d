import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { makeAuthority } from '../../src/checker/inspect/authority.ts';
import { readImageTrust, TrustStore } from '../../src/daemon/trust.ts';
import { until, useLaunchLab, WAIT } from '../support/launch-lab.ts';

/** The authority of a run inside a real container: where programs look, read-only, and replaced while the run lives. */
const lab = useLaunchLab();

describe('the authority of an inspected run', () => {
  it('is where the programs of the container look, and nobody there can change it', async () => {
    const trust = await readImageTrust(lab.engine, lab.image, { mounts: [] });
    const store = await TrustStore.open(join(lab.folder, 'trust'));
    const runId = lab.nextRunId();
    const [first, second] = [1, 2].map((hour) => makeAuthority({ runId, nowMs: Date.now() + hour }));
    const staged = await store.stage(runId, trust, first?.certificatePem ?? '');
    const script = `
      for file in "$SSL_CERT_FILE" "$CURL_CA_BUNDLE" "$NODE_EXTRA_CA_CERTS" ${trust.bundles.join(' ')}; do
        sum=$(tail -c 400 "$file" | cksum); echo "tail $sum"
        echo x 2>/dev/null >>"$file" || echo unwritable
      done
      echo x 2>/dev/null >/run/ringfence/new || echo closed
      cp /run/ringfence/ca.pem /tmp/first; echo looked
      while cmp -s /run/ringfence/ca.pem /tmp/first; do sleep 0.05; done
      until tail -c 400 /run/ringfence/bundle.pem | cmp -s - /tmp/ca; do tail -c 400 /run/ringfence/ca.pem >/tmp/ca; done
      echo replaced
      ${WAIT}`;
    const launched = await lab.launch(script, {
      spec: { command: ['/bin/sh', '-c', script] },
      trustBinds: staged.binds,
    });
    await until(async () => (await lab.log(launched)).includes('looked'));
    expect(await lab.mismatches(launched, staged.locations)).toEqual([]);
    const log = await lab.log(launched);
    const places = 3 + trust.bundles.length;
    expect(log.match(/^unwritable$/gm)).toHaveLength(places);
    expect(log).toMatch(/^closed$/m);
    expect(new Set(log.match(/^tail .*$/gm)).size).toBe(1);
    expect(log.match(/^tail /gm)).toHaveLength(places);
    await store.stage(runId, trust, second?.certificatePem ?? '');
    await until(async () => (await lab.log(launched)).includes('replaced'));
    await store.unstage(runId);
  });

  it('is missed by the read-back when something else is mounted there', async () => {
    const trust = await readImageTrust(lab.engine, lab.image, { mounts: [] });
    const store = await TrustStore.open(join(lab.folder, 'trust'));
    const [runId, otherId] = [lab.nextRunId(), 'rother0000000'];
    const { certificatePem } = makeAuthority({ runId, nowMs: Date.now() });
    const staged = await store.stage(runId, trust, certificatePem);
    const other = await store.stage(otherId, trust, certificatePem);
    const launched = await lab.launch(WAIT, { trustBinds: other.binds });
    const found = await lab.mismatches(launched, staged.locations);
    expect(found.join('\n')).toMatch(/mounts\.\/run\/ringfence\.source/);
    await store.unstage(runId);
    await store.unstage(otherId);
  });
});
