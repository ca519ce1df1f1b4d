import { messageOf } from '../core/errors.ts';

/** Longest wait for one release: an engine that hangs must not keep the others from being released. */
const RELEASE_MS_MAX = 30_000;

type Release = { readonly name: string; readonly release: () => Promise<void> };

/**
 * What a run has acquired, released in reverse order. Register in the line before acquiring where releasing what is not
 * there is harmless, in the line after it otherwise. `run` is called once and never throws: it returns what failed.
 */
export class Teardown {
  private readonly releases: Release[] = [];
  private finished = false;

  add(name: string, release: () => Promise<void>): void {
    this.releases.push({ name, release });
  }

  async run(): Promise<readonly string[]> {
    if (this.finished) return [];
    this.finished = true;
    const failures: string[] = [];
    for (const { name, release } of this.releases.toReversed()) {
      try {
        await withDeadline(release());
      } catch (error) {
        failures.push(`${name}: ${messageOf(error)}`);
      }
    }
    return failures;
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
