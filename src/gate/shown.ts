import { isDeepStrictEqual } from 'node:util';
import type { ShownJudgement, ShownName } from './verdict.ts';

/** Beyond this nothing is remembered by name, and a change of the rules closes every connection of the run. */
const SHOWN_NAMES_MAX = 1_024;

/** What the checker was told about the connections of one run, so that a change of the rules can take it back. */
export class ShownNames {
  readonly #shown = new Map<string, { readonly shown: ShownName; readonly judgement: ShownJudgement }>();
  #isWhole = true;

  passed(shown: ShownName, judgement: ShownJudgement): void {
    const key = `${shown.name}:${shown.port}/${shown.protocol}`;
    if (this.#shown.has(key) || this.#shown.size < SHOWN_NAMES_MAX) this.#shown.set(key, { shown, judgement });
    else this.#isWhole = false;
  }

  /** Names whose connections are judged otherwise now, and forgets them; null when only all of them are certain. */
  takeChanged(judge: (shown: ShownName) => ShownJudgement): readonly string[] | null {
    const changed = new Set<string>();
    for (const [key, { shown, judgement }] of this.#shown) {
      if (isDeepStrictEqual(judge(shown), judgement)) continue;
      changed.add(shown.name);
      this.#shown.delete(key);
    }
    if (this.#isWhole) return [...changed];
    this.#shown.clear();
    this.#isWhole = true;
    return null;
  }
}
