/** The mounts of a process as its /proc/PID/mountinfo states them (proc_pid_mountinfo(5)). */
export type Mount = {
  /** `major:minor` of the filesystem. */
  readonly device: string;
  /** The folder of that filesystem which is mounted here. */
  readonly root: string;
  readonly target: string;
  readonly options: readonly string[];
  /** `shared:N` and `master:N`: empty for a private mount. */
  readonly propagation: readonly string[];
  readonly type: string;
  readonly source: string;
  readonly superOptions: readonly string[];
};

/** A folder or file by its filesystem and its place in it: the same for every path that leads there by mounts. */
export type Location = { readonly device: string; readonly path: string; readonly type: string };

export function parseMountInfo(text: string): readonly Mount[] {
  return text.split('\n').flatMap((line) => {
    const fields = line.split(' ');
    const separator = fields.indexOf('-', 6);
    if (separator === -1) return [];
    return [
      {
        device: fields[2] ?? '',
        root: unescaped(fields[3] ?? ''),
        target: unescaped(fields[4] ?? ''),
        options: (fields[5] ?? '').split(','),
        propagation: fields.slice(6, separator),
        type: fields[separator + 1] ?? '',
        source: unescaped(fields[separator + 2] ?? ''),
        superOptions: (fields[separator + 3] ?? '').split(','),
      },
    ];
  });
}

/** The kernel writes space, tab, newline and backslash as three octal digits. */
function unescaped(text: string): string {
  return text.replace(/\\([0-7]{3})/g, (_whole, digits: string) => String.fromCharCode(Number.parseInt(digits, 8)));
}

/** Where an absolute path without symlinks really is; null when the table is empty. */
export function locate(mounts: readonly Mount[], path: string): Location | null {
  let best: Mount | null = null;
  for (const mount of mounts) {
    // A later line covers an earlier one at the same place.
    if (contains(mount.target, path) && mount.target.length >= (best?.target.length ?? 0)) best = mount;
  }
  if (best === null) return null;
  const rest = path.slice(best.target === '/' ? 0 : best.target.length);
  return { device: best.device, path: joined(best.root, rest), type: best.type };
}

/** True when `path` is `folder` or below it. Both absolute and normalised. */
export function contains(folder: string, path: string): boolean {
  return folder === '/' || path === folder || path.startsWith(`${folder}/`);
}

function joined(root: string, rest: string): string {
  const tail = rest === '/' ? '' : rest;
  if (root === '/') return tail === '' ? '/' : tail;
  return `${root}${tail}`;
}
