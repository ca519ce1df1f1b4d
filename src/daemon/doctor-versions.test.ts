import { expect, it } from 'vitest';
import { versionCheck, versionChecks } from './doctor-versions.ts';

const RUNC = { name: 'runc', version: '1.1.5+ds1', build: '1.1.5+ds1-1+deb12u1' };
const CHANGELOG = (version: string, ...ids: readonly string[]): string =>
  `runc (${version}) bookworm-security; urgency=high\n\n${ids.map((id) => `  * Fix ${id}\n`).join('')}`;

it('says which flaws are older than the fix, where the fix is, and how to find out about a patch', () => {
  const { state, rung, evidence, fix } = versionCheck(RUNC, null);
  expect({ state, rung }).toEqual({ state: 'degraded', rung: null });
  expect(evidence).toMatch(
    /^1\.1\.5\+ds1-1\+deb12u1: older than the fix of its project for CVE-2024-21626 \(a working/,
  );
  expect(fix).toMatch(/^use 1\.3\.6, 1\.4\.3, 1\.5\.0-rc\.3 or newer; your distribution may have patched it/);
  expect(fix).toContain("`apt changelog runc | grep -E 'CVE-2024-21626|CVE-2024-45310|CVE-2025-31133|");
});

it('takes the word of the changelog of the package in use, for what it names and for nothing else', () => {
  const named = versionCheck(RUNC, CHANGELOG('1.1.5+ds1-1+deb12u1', 'CVE-2024-21626'));
  expect(named.evidence).toMatch(
    /names the fixes of CVE-2024-21626: older than the fix of its project for CVE-2024-45310/,
  );
  const all = [
    'CVE-2024-21626',
    'CVE-2024-45310',
    'CVE-2025-31133',
    'CVE-2025-52565',
    'CVE-2025-52881',
    'CVE-2026-41579',
  ];
  expect(versionCheck(RUNC, CHANGELOG('1.1.5+ds1-1+deb12u1', ...all))).toMatchObject({ state: 'ok', fix: null });
  // One of the three that are fixed together is missing.
  const some = all.filter((id) => id !== 'CVE-2025-52881');
  expect(versionCheck(RUNC, CHANGELOG('1.1.5+ds1-1+deb12u1', ...some)).evidence).toContain(
    'CVE-2025-31133, CVE-2025-52565',
  );
  // Of a package that is not what runs.
  expect(versionCheck(RUNC, CHANGELOG('1.2.0-1', ...all))).toMatchObject({ state: 'degraded' });
});

it('is content with what has no flaw, and not with what it cannot read', () => {
  expect(versionCheck({ name: 'runc', version: '1.5.0', build: 'v1.5.0-0-gabc' }, null)).toEqual({
    name: 'runc version',
    state: 'ok',
    rung: null,
    evidence: '1.5.0: no known flaw that matters here',
    fix: null,
  });
  expect(versionCheck({ name: 'runc', version: 'dev', build: '' }, null)).toMatchObject({ state: 'degraded' });
});

it('passes over parts that nothing is known of, and says when the engine does not answer', async () => {
  const parts = [{ name: 'docker-init', version: '0.19.0', build: '' }, RUNC];
  const checks = await versionChecks({ components: () => Promise.resolve(parts) });
  expect(checks.map(({ name }) => name)).toContain('runc version');
  expect(checks.map(({ name }) => name)).not.toContain('docker-init version');
  const gone = await versionChecks({ components: () => Promise.reject(new Error('it is gone')) });
  expect(gone).toMatchObject([{ state: 'degraded', evidence: 'it is gone' }]);
});
