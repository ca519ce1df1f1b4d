import { messageOf } from '../core/errors.ts';

/** Longest wait for one release: an engine that hangs must not keep the others from being released. */
const RELEASE_MS_MAX = 30_000;

type Release = { readonly name: string; readonly release: () => Promise<void> };

/**
 * What a run has acquired, released in stages: `first` in reverse order, one by one, because the rest depends on its
 * being gone; then everything else side by side. Register before acquiring where releasing what is not there is
 * harmless, after it otherwise. `run` is called once and never throws: it returns what failed.
 */
export class Teardown {
  private readonly first: Release[] = [];
  private readonly rest: Release[] = [];
  private finished = false;

  /** The container and what hangs on it. */
  addFirst(name: string, release: () => Promise<void>): void {
    this.first.push({ name, release });
  }

  add(name: string, release: () => Promise<void>): void {
    this.rest.push({ name, release });
  }

  async run(): Promise<readonly string[]> {
    if (this.finished) return [];
    this.finished = true;
    const failures: (string | null)[] = [];
    for (const each of this.first.toReversed()) failures.push(await attempt(each));
    failures.push(...(await Promise.all(this.rest.map(attempt))));
    return failures.filter((failure) => failure !== null);
  }
}

async function attempt({ name, release }: Release): Promise<string | null> {
  try {
    await withDeadline(release());
    return null;
  } catch (error) {
    return `${name}: ${messageOf(error)}`;
  }
}

async function withDeadline(work: Promise<void>): Promise<void> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_resolve, reject) => {
    timer = setTimeout(() => reject(new Error(`not released within ${RELEASE_MS_MAX / 1000} s`)), RELEASE_MS_MAX);
  });
  try {
    await Promise.race([work, late]);
  } finally {
    clearTimeout(timer);
  }
}
