import { existsSync, mkdtempSync, readFileSync, readlinkSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { execa } from 'execa';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { COMMANDS } from '../../src/cli/commands.ts';
import { VERSION } from '../../src/core/version.ts';

/** The product laid out below a folder, as a package would do it; scripts/vm-test installs it on a host. */
const SCRIPTS = new URL('../../scripts/', import.meta.url).pathname;
const INSTALL_MS_MAX = 120_000;

let dest = '';
const at = (path: string): string => join(dest, path);
const modeOf = (path: string): string => (statSync(at(path)).mode & 0o777).toString(8);

beforeAll(async () => {
  dest = mkdtempSync(join(tmpdir(), 'install-'));
  await execa(`${SCRIPTS}install`, ['--dest-root', dest], { timeout: INSTALL_MS_MAX });
}, INSTALL_MS_MAX);
afterAll(() => rmSync(dest, { recursive: true, force: true }));

describe('what install lays out', () => {
  it('has its places and modes', () => {
    expect(readlinkSync(at('opt/ringfence'))).toBe(`ringfence-${VERSION}`);
    expect(readlinkSync(at('usr/local/bin/ringfence'))).toBe('/opt/ringfence/bin/ringfence');
    const modes = ['etc/ringfence/secrets', 'var/lib/ringfence', 'etc/ringfence', 'etc/ringfence/config.yaml'].map(
      modeOf,
    );
    expect(modes).toEqual(['700', '700', '755', '644']);
  });

  it('runs with the Node.js that it carries, whatever the caller has', async () => {
    const env = { PATH: '/usr/bin:/bin', NODE_OPTIONS: '--require=/nowhere.js' };
    const { stdout } = await execa(at('opt/ringfence/bin/ringfence'), ['--version'], { env, extendEnv: false });
    expect(stdout).toBe(VERSION);
    const checked = await execa(at('opt/ringfence/bin/ringfence'), [
      'validate',
      at('opt/ringfence/profiles/offline.yaml'),
    ]);
    expect(checked.stdout).toContain('valid');
  });

  it('starts a daemon that refuses to trust a configuration that others can write', async () => {
    const config = at('etc/ringfence/config.yaml');
    const args = ['daemon', '--config', config, '--state', at('var/lib/ringfence')];
    await execa('chmod', ['666', config]);
    const refused = await execa(at('opt/ringfence/bin/ringfence'), args, { reject: false, timeout: INSTALL_MS_MAX });
    expect([refused.exitCode, refused.stderr]).toEqual([2, expect.stringContaining('can be written by others')]);
    await execa('chmod', ['644', config]);
  });

  it('completes every command, in both shells, and describes it in the manual', async () => {
    const bash = at('usr/local/share/bash-completion/completions/ringfence');
    const { stdout } = await execa('bash', [
      '-c',
      `source '${bash}'; COMP_WORDS=(ringfence '') COMP_CWORD=1; _ringfence; printf '%s\\n' "\${COMPREPLY[@]}"`,
    ]);
    const zsh = readFileSync(at('usr/local/share/zsh/site-functions/_ringfence'), 'utf8');
    const manual = readFileSync(at('usr/local/share/man/man1/ringfence.1'), 'utf8');
    for (const { name } of COMMANDS) {
      expect(stdout.split('\n')).toContain(name);
      expect(zsh).toContain(`'${name}:`);
      expect(manual).toMatch(new RegExp(`^\\.B ${name} `, 'm'));
    }
  });
});

it('installs again over itself, and keeps what a person wrote', async () => {
  writeFileSync(at('etc/ringfence/config.yaml'), '# mine\n');
  await execa(`${SCRIPTS}install`, ['--dest-root', dest], { timeout: INSTALL_MS_MAX });
  expect(readFileSync(at('etc/ringfence/config.yaml'), 'utf8')).toBe('# mine\n');
  expect([`opt/ringfence-${VERSION}.old`, `opt/ringfence-${VERSION}.new`].map((path) => existsSync(at(path)))).toEqual([
    false,
    false,
  ]);
});

it(
  'uninstalls the program, and state and configuration only with --purge',
  async () => {
    const uninstall = at('opt/ringfence/scripts/uninstall');
    await execa(uninstall, ['--dest-root', dest]);
    const kept = ['etc/ringfence/config.yaml', 'var/lib/ringfence'];
    const gone = [
      'opt/ringfence',
      `opt/ringfence-${VERSION}`,
      'usr/local/bin/ringfence',
      'etc/systemd/system/ringfenced.service',
    ];
    expect([...kept, ...gone].filter((path) => existsSync(at(path)))).toEqual(kept);
    await execa(`${SCRIPTS}uninstall`, ['--purge', '--dest-root', dest]);
    expect(kept.filter((path) => existsSync(at(path)))).toEqual([]);
  },
  INSTALL_MS_MAX,
);
