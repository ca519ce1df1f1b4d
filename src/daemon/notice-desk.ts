import { hostname } from 'node:os';
import type { Approval } from '../api/service.ts';
import { messageOf } from '../core/errors.ts';
import type { Breach } from '../core/outcome.ts';
import type { AlertDraft, AlertOutbox } from '../core/ports/alert.ts';
import type { Log } from '../core/ports/log.ts';
import type { Spec } from '../profile/spec.ts';
import { approvalNotice, heldNotice } from '../report/person-notice.ts';
import type { RunState } from '../run/state.ts';

/** News that is no incident and still needs a person: an agent asks, or a run is held. */
export class NoticeDesk {
  private readonly outbox: AlertOutbox;
  private readonly log: Log;
  private heldCount = 0;

  constructor({ outbox, log }: { readonly outbox: AlertOutbox; readonly log: Log }) {
    this.outbox = outbox;
    this.log = log;
  }

  asked(approval: Approval, spec: Spec): void {
    this.send(approvalNotice(approval, { host: hostname() }), spec.alerts);
  }

  held(state: RunState, breach: Breach): void {
    const at = new Date();
    this.heldCount += 1;
    const id = `${state.runId}-held-${at.getTime()}-${this.heldCount}`;
    const { runId, spec } = state;
    const notice = heldNotice({ id, at: at.toISOString(), host: hostname(), runId, profile: spec.name, breach });
    this.send(notice, spec.alerts);
  }

  private send(notice: AlertDraft, sinks: readonly string[]): void {
    for (const sink of sinks) {
      this.outbox.enqueue({ ...notice, sink }).catch((error: unknown) => {
        this.log.error({ sink, notice: notice.id, message: messageOf(error) }, 'a notice could not be queued');
      });
    }
  }
}
