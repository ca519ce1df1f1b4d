/**
 * Which host folders no agent may ever get, and which places inside the container no mount may cover. These are the
 * textual rules; the launch asks again with the real path, after every symlink is followed.
 */

/** A grant of one of these, of something below it, or of a folder that holds it is a grant of the host. */
const FORBIDDEN_TREES = [
  '/boot',
  '/dev',
  '/etc',
  '/proc',
  '/run',
  '/sys',
  '/var/lib/containerd',
  '/var/lib/containers',
  '/var/lib/docker',
  '/var/lib/kubelet',
  '/var/lib/ringfence',
  '/var/run',
  '/var/spool/cron',
];
/** Refused themselves; folders made below them are fine. */
const FORBIDDEN_FOLDERS = new Set([
  '/bin',
  '/home',
  '/lib',
  '/lib64',
  '/media',
  '/mnt',
  '/opt',
  '/root',
  '/sbin',
  '/srv',
  '/tmp',
  '/usr',
  '/var/log',
  '/var/tmp',
]);

const TARGET_TREES = ['/dev', '/proc', '/run', '/sys', '/var/run'];
const TARGETS = new Set([
  '/bin',
  '/etc',
  '/etc/group',
  '/etc/hostname',
  '/etc/hosts',
  '/etc/ld.so.preload',
  '/etc/passwd',
  '/etc/resolv.conf',
  '/lib',
  '/lib64',
  '/sbin',
  '/sbin/docker-init',
  '/tmp',
  '/usr',
  '/var',
]);

/** Why this host folder is never mounted, or null. `path` is absolute and normalised. */
export function hostPathRefusal(path: string): string | null {
  if (path === '/') return 'must not be / (the whole host)';
  for (const tree of FORBIDDEN_TREES) {
    if (path === tree) return `must not be ${tree}, which belongs to the host`;
    if (isInside(path, tree)) return `must not be in ${tree}, which belongs to the host`;
    if (isInside(tree, path)) return `must not be ${path}, because ${tree} is in it`;
  }
  if (FORBIDDEN_FOLDERS.has(path)) return `must not be ${path} itself; mount a folder made for the agent below it`;
  const home = /^\/(?:root|home\/[^/]+)(?:\/([^/]+).*)?$/.exec(path);
  if (home !== null && home[1] === undefined) return `must not be ${path}, which is somebody's home`;
  if (home !== null && home[1]?.startsWith('.') === true)
    return 'must not be a hidden folder of a home: keys live there';
  if (/(?:^|\/)(?:docker|podman|containerd|crio|ringfenced)\.sock$/.test(path)) {
    return 'must not be the socket of a container runtime or of the supervisor';
  }
  return null;
}

/** Why nothing is mounted at this place inside the container, or null. */
export function targetRefusal(path: string): string | null {
  if (!path.startsWith('/')) return 'must be an absolute path, such as /workspace';
  if (path === '/') return 'must not be / (the root of the container is read-only)';
  if (path !== normalisePath(path)) return 'must be written without "..", ".", "//" or a slash at the end';
  for (const tree of TARGET_TREES) {
    if (path === tree) return `must not be ${tree}, which belongs to the engine`;
    if (isInside(path, tree)) return `must not be in ${tree}, which belongs to the engine`;
  }
  if (TARGETS.has(path)) return `must not be ${path}, which belongs to the image or the engine`;
  return null;
}

/** A path of the profile as an absolute one, without `.`, `..` and double slashes. `folder` is absolute. */
export function resolvePath({ folder, path }: { readonly folder: string; readonly path: string }): string {
  return normalisePath(path.startsWith('/') ? path : `${folder}/${path}`);
}

function normalisePath(path: string): string {
  const parts: string[] = [];
  for (const part of path.split('/')) {
    if (part === '' || part === '.') continue;
    if (part === '..') parts.pop();
    else parts.push(part);
  }
  return `/${parts.join('/')}`;
}

function isInside(path: string, folder: string): boolean {
  return path.startsWith(`${folder}/`);
}
