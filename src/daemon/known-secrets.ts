import { hideSecrets, holdsSecret, secretWords, type SecretWords } from '../report/secret-words.ts';
import type { Secret } from './secrets.ts';

/**
 * The secrets of the runs that are alive, in memory for one purpose: so that they can be taken out of everything that is
 * said about those runs. A run without secrets costs nothing.
 */
export class KnownSecrets {
  private readonly byRun = new Map<string, SecretWords>();

  learn(runId: string, secrets: readonly Secret[]): void {
    if (secrets.length === 0) return;
    this.byRun.set(runId, secretWords(secrets.map(({ fileName, value }) => ({ name: fileName, value }))));
  }

  forget(runId: string): void {
    this.byRun.delete(runId);
  }

  /** The same value without the secrets of that run. */
  hide<Value>(runId: string, value: Value): Value {
    const words = this.byRun.get(runId);
    return words === undefined ? value : hideSecrets(value, words);
  }

  isIn(runId: string, text: string): boolean {
    const words = this.byRun.get(runId);
    return words !== undefined && holdsSecret(text, words);
  }
}
