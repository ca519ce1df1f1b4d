import type { EngineFacts, ImageFacts } from '../core/ports/engine.ts';
import { formatBytes } from '../core/units.ts';
import type { Spec } from '../profile/spec.ts';
import { isOwnedName, secretFileName, SECRETS_FOLDER, secretsByValue, SHELL } from './environment.ts';

/** Why a spec cannot run from an image on this host; said before anything exists. */
export type LaunchProblem = { readonly path: string; readonly message: string; readonly hint: string | null };

export type LaunchFacts = {
  readonly spec: Spec;
  readonly image: ImageFacts;
  readonly engine: EngineFacts;
  /** Whether the image has SHELL; only asked when `spec.secrets` is not empty. */
  readonly hasShell: boolean;
  /** What the caller wrote with `--label`. */
  readonly labels: Readonly<Record<string, string>>;
};

/** The least that the engine (memory) and a page table of scratch (disk) can hold. */
const MEMORY_BYTES_MIN = 6 * 2 ** 20;
const DISK_BYTES_MIN = 2 ** 20;
const CPU_MILLIS_MIN = 10;
const PIDS_MIN = 3; // The reaping init, the shell that reads secrets, and the agent.

/** An image that declares more folders to be written to than this was not made to be contained. */
const VOLUMES_MAX = 8;
const LABELS_MAX = 32;
const LABEL_CHARS_MAX = 256;

const FORBIDDEN_FOLDERS = ['/proc', '/sys', '/dev'];
const TARGETS_TAKEN = ['/tmp', '/dev/shm', SECRETS_FOLDER, '/sbin/docker-init'];

/** Every reason why this spec cannot run from this image on this host; [] means that it can be planned. */
export function launchProblems(facts: LaunchFacts): readonly LaunchProblem[] {
  const { spec } = facts;
  return [
    ...commandProblems(spec),
    ...userProblems(spec),
    ...limitProblems(spec),
    ...environmentProblems(facts),
    ...imageProblems(facts),
    ...targetProblems(spec),
    ...labelProblems(facts.labels),
  ];
}

function commandProblems(spec: Spec): LaunchProblem[] {
  const [file] = spec.command;
  if (file === undefined || file === '') return [problem('command', 'must name a program', null)];
  return spec.command.some((word) => word.includes('\0')) ? [problem('command', 'must not hold a NUL byte', null)] : [];
}

function userProblems(spec: Spec): LaunchProblem[] {
  if (spec.user.uid > 0 && spec.user.gid > 0) return [];
  return [problem('user', 'must be neither user 0 nor group 0', 'write a number from 1000 up, such as 10001')];
}

function limitProblems(spec: Spec): LaunchProblem[] {
  const { limits } = spec;
  const least = (path: string, got: number, min: number, show: (value: number) => string): LaunchProblem[] =>
    got >= min ? [] : [problem(path, `must be at least ${show(min)}, got ${show(got)}`, null)];
  return [
    ...least('limits.cpu', limits.cpuMillis, CPU_MILLIS_MIN, (value) => String(value / 1000)),
    ...least('limits.memory', limits.memoryBytesMax, MEMORY_BYTES_MIN, formatBytes),
    ...least('limits.pids', limits.pidsMax, PIDS_MIN, String),
    ...least('limits.disk', limits.diskBytesMax, DISK_BYTES_MIN, formatBytes),
  ];
}

function environmentProblems({ spec, hasShell }: LaunchFacts): LaunchProblem[] {
  const owned = [...Object.keys(spec.env).map((name) => ({ path: 'env', name })), ...secretNames(spec)]
    .filter(({ name }) => isOwnedName(name))
    .map(({ path, name }) => problem(`${path}.${name}`, 'belongs to the supervisor and cannot be set', null));
  const unfit = secretNames(spec)
    .filter(({ name }) => !/^[A-Za-z_][A-Za-z0-9_]{0,127}$/.test(name))
    .map(() => problem('secrets', 'must have names of letters, digits and underscores', null));
  const files = spec.secrets.map(({ env }) => secretFileName(env));
  const twice = files
    .filter((file, index) => files.indexOf(file) !== index)
    .map((file) => problem('secrets', `names the secret ${file} twice`, null));
  const [byValue] = secretsByValue(spec);
  if (byValue === undefined || hasShell) return [...owned, ...unfit, ...twice];
  const message = `cannot be given as a variable, because the image has no ${SHELL} to set it`;
  const hint = `write env: ${byValue}_FILE, and let the agent read the file that it names`;
  return [...owned, ...unfit, ...twice, problem(`secrets.${byValue}`, message, hint)];
}

function secretNames(spec: Spec): readonly { readonly path: string; readonly name: string }[] {
  return spec.secrets.map(({ env }) => ({ path: 'secrets', name: env }));
}

function imageProblems({ image, spec }: LaunchFacts): LaunchProblem[] {
  const folder = image.workingDirectory;
  const problems: LaunchProblem[] = [];
  // A working directory in /proc has been a way out: /proc/self/fd/N can be a folder of the host.
  if (folder !== '' && (!isPlainPath(folder) || isForbidden(folder))) {
    problems.push(
      problem('image', 'has a working directory that no agent may start in', 'rebuild it with another WORKDIR'),
    );
  }
  const volumes = uncoveredVolumes({ image, spec });
  if (volumes.length > VOLUMES_MAX) {
    problems.push(problem('image', `declares ${volumes.length} volumes; at most ${VOLUMES_MAX} are covered`, null));
  }
  if (volumes.some((path) => path === '/' || !isPlainPath(path) || isForbidden(path))) {
    problems.push(problem('image', 'declares a volume where no agent may write', 'rebuild it without that VOLUME'));
  }
  return problems;
}

function targetProblems(spec: Spec): LaunchProblem[] {
  const targets = spec.mounts.map((mount) => mount.path);
  return targets.flatMap((target, index) => {
    const path = `mounts[${index}].path`;
    if (!isPlainPath(target)) return [problem(path, 'must be an absolute path without "..", "." or "//"', null)];
    if (isForbidden(target) || TARGETS_TAKEN.some((taken) => overlaps(target, taken))) {
      return [problem(path, 'covers a place that belongs to the container', 'use a folder such as /workspace')];
    }
    if (targets.indexOf(target) !== index) return [problem(path, 'is mounted twice', null)];
    return [];
  });
}

function labelProblems(labels: Readonly<Record<string, string>>): LaunchProblem[] {
  const entries = Object.entries(labels);
  if (entries.length > LABELS_MAX) return [problem('labels', `must be at most ${LABELS_MAX}`, null)];
  return entries
    .filter(([key, value]) => !/^[A-Za-z0-9][A-Za-z0-9._/-]{0,62}$/.test(key) || value.length > LABEL_CHARS_MAX)
    .map(() => problem('labels', `must have plain names and at most ${LABEL_CHARS_MAX} characters`, null));
}

/** The folders that the image declares as volumes and that nothing else is put over. */
export function uncoveredVolumes({
  image,
  spec,
}: {
  readonly image: ImageFacts;
  readonly spec: Spec;
}): readonly string[] {
  const covered = new Set([
    ...spec.mounts.map((mount) => mount.path),
    '/tmp',
    ...(spec.secrets.length === 0 ? [] : [SECRETS_FOLDER]),
  ]);
  return image.volumes.map((path) => path.replace(/(?<=.)\/+$/, '')).filter((path) => !covered.has(path));
}

function isPlainPath(path: string): boolean {
  if (!path.startsWith('/') || path === '/' || path.includes('\0') || path.includes(':')) return path === '/';
  return path
    .slice(1)
    .split('/')
    .every((part) => part !== '' && part !== '.' && part !== '..');
}

function isForbidden(path: string): boolean {
  return FORBIDDEN_FOLDERS.some((folder) => path === folder || path.startsWith(`${folder}/`));
}

/** Equal, or one inside the other. */
function overlaps(left: string, right: string): boolean {
  return left === right || left.startsWith(`${right}/`) || right.startsWith(left === '/' ? left : `${left}/`);
}

function problem(path: string, message: string, hint: string | null): LaunchProblem {
  return { path, message, hint };
}
