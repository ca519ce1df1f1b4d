import { access, open, readFile, readlink } from 'node:fs/promises';
import { ownProgram } from '../kernel/own-program.ts';
import { execa } from 'execa';
import { ERRORS, fail, type ErrorCode } from '../core/errors.ts';
import { printable } from '../core/text.ts';
import { failure, said } from './image.ts';
import { perform, type MountAct } from './mounting.ts';

/**
 * Who mounts for this daemon: itself, where it may and the engine sees its mounts; else systemd, which starts one process per
 * act among the mounts of the host. So the packaged unit needs neither CAP_SYS_ADMIN nor the loop devices for it.
 */
export type Hands =
  | { readonly kind: 'own' | 'systemd'; readonly act: (act: MountAct) => Promise<void> }
  | { readonly kind: 'none'; readonly why: string };

const CAP_SYS_ADMIN = 21n;
const LOOP_CONTROL = '/dev/loop-control';
/** Where systemd takes orders of root alone, without a bus. */
const SYSTEMD_SOCKET = '/run/systemd/private';
const ACT_SECONDS_MAX = 60;
const ANSWER_CHARS_MAX = 4_096;
/** No property here may give the process mounts of its own, or what it mounts would be seen by nobody. */
const PROPERTIES = [
  'CapabilityBoundingSet=CAP_SYS_ADMIN CAP_CHOWN CAP_FOWNER CAP_DAC_OVERRIDE CAP_DAC_READ_SEARCH',
  'NoNewPrivileges=yes',
  'RestrictAddressFamilies=AF_UNIX',
  'UMask=0077',
  `RuntimeMaxSec=${ACT_SECONDS_MAX}`,
];

/** Asked once, before anything is made. */
export async function findHands(): Promise<Hands> {
  const why = await whyNotOwn();
  if (why === null) return { kind: 'own', act: perform };
  return (await systemdMountsForUs()) ? { kind: 'systemd', act: performBySystemd } : { kind: 'none', why };
}

async function whyNotOwn(): Promise<string | null> {
  const [status, own, first] = await Promise.all([
    readFile('/proc/self/status', 'latin1'),
    readlink('/proc/self/ns/mnt').catch(() => ''),
    readlink('/proc/1/ns/mnt').catch(() => ''),
  ]);
  const capabilities = BigInt(`0x${/^CapEff:\s*([0-9a-f]+)$/m.exec(status)?.[1] ?? '0'}`);
  if (((capabilities >> CAP_SYS_ADMIN) & 1n) === 0n) return 'the daemon runs without CAP_SYS_ADMIN, so it cannot mount';
  // Where the first process does not show its own, the read-back of the launch tells it.
  if (first !== '' && own !== first)
    return 'the daemon has mounts of its own, which the engine does not see (PrivateMounts, a container)';
  try {
    await (await open(LOOP_CONTROL, 'r+')).close();
  } catch (error) {
    return `${LOOP_CONTROL} cannot be opened (${(error as NodeJS.ErrnoException).code ?? 'unknown error'})`;
  }
  return null;
}

/** It is there, and what it mounts arrives here. */
async function systemdMountsForUs(): Promise<boolean> {
  if (process.getuid?.() !== 0) return false;
  try {
    await access(SYSTEMD_SOCKET);
    const mounts = await readFile('/proc/self/mountinfo', 'utf8');
    return mounts.split('\n').some((line) => / \/ \/ [^-]* (?:master|shared):\d+ /.test(line));
  } catch {
    return false;
  }
}

export async function performBySystemd(act: MountAct): Promise<void> {
  const entry = ownProgram('./process', import.meta.url);
  // Coded, because systemd expands what looks like a variable.
  const order = Buffer.from(JSON.stringify(act)).toString('base64url');
  const options = [
    '--quiet',
    '--wait',
    '--pipe',
    '--collect',
    ...PROPERTIES.map((property) => `--property=${property}`),
  ];
  const result = await execa('systemd-run', [...options, '--', process.execPath, entry, order], {
    reject: false,
    stdin: 'ignore',
    timeout: (ACT_SECONDS_MAX + 5) * 1_000,
  });
  if (!result.failed) return;
  if (result.code === 'ENOENT') throw failure('systemd-run is not installed', 'apt-get install systemd');
  throw answered(result.stdout) ?? failure('systemd did not mount for the daemon', 'journalctl -n 50', said(result));
}

/** The process says as one line of JSON what stood in its way. */
function answered(text: string): Error | null {
  try {
    const { code, detail, hint } = JSON.parse(text.slice(0, ANSWER_CHARS_MAX)) as Record<string, unknown>;
    if (typeof code !== 'string' || !Object.hasOwn(ERRORS, code) || typeof detail !== 'string') return null;
    return fail(code as ErrorCode, {
      detail: printable(detail),
      ...(typeof hint === 'string' ? { hint: printable(hint) } : {}),
    });
  } catch {
    return null;
  }
}
