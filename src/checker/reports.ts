import type { CheckerReport } from './messages.ts';

/** A gate that reads nothing must not make this process grow; questions are bounded by connections and always go. */
const PENDING_MAX = 2_048;
/** The same refusal again is the same attempt (a client that tries every address), and the gate counts it as one. */
const SAME_ATTEMPT_MS = 1_000;
const RECENT_MAX = 1_024;

/**
 * Reports on their way to the gate. Repeats of a denial within a second are not sent; when the channel is full, denials
 * are counted, and the next one that goes says how many did not.
 */
export class ReportQueue {
  readonly #send: (report: CheckerReport, sent: () => void) => void;
  readonly #now: () => number;
  readonly #recent = new Map<string, number>();
  #pending = 0;
  #unsaid = 0;

  constructor(send: (report: CheckerReport, sent: () => void) => void, now: () => number = () => performance.now()) {
    this.#send = send;
    this.#now = now;
  }

  push(report: CheckerReport): void {
    if (report.kind !== 'denied') return this.#deliver(report);
    const key = `${report.source} ${report.rule} ${report.port} ${report.destination}`;
    const nowMs = this.#now();
    const before = this.#recent.get(key);
    if (before !== undefined && nowMs - before < SAME_ATTEMPT_MS) return;
    if (this.#recent.size >= RECENT_MAX) this.#recent.clear();
    this.#recent.set(key, nowMs);
    if (this.#pending >= PENDING_MAX) {
      this.#unsaid += 1;
      return;
    }
    const more = this.#unsaid === 0 ? '' : ` (and ${this.#unsaid} refusals before it were not told one by one)`;
    this.#unsaid = 0;
    this.#deliver({ ...report, explanation: `${report.explanation}${more}` });
  }

  #deliver(report: CheckerReport): void {
    this.#pending += 1;
    this.#send(report, () => {
      this.#pending -= 1;
    });
  }
}
