import { assertNever } from '../core/assert.ts';
import { fail, messageOf, RingfenceError } from '../core/errors.ts';
import type { Sink, SinkRules } from '../core/ports/alert.ts';
import { printable } from '../core/text.ts';
import type { Deliverer } from './deliverer.ts';
import { failed } from './deliverer.ts';
import type { HttpOptions } from './http.ts';
import { openAlertmanager } from './sinks/alertmanager.ts';
import { openExec } from './sinks/exec.ts';
import { openJournald } from './sinks/journald.ts';
import { openPagerDuty } from './sinks/pagerduty.ts';
import { openSlack } from './sinks/slack.ts';
import { openWebhook } from './sinks/webhook.ts';

/** Throws CONFIG_INVALID, with the name of the sink, for one that can never work. */
export function openSink(
  named: { readonly name: string; readonly sink: Sink },
  rules: SinkRules,
  http: HttpOptions,
): Deliverer {
  const { name, sink } = named;
  try {
    const deliverer = openKind(sink, rules, http);
    if (rules.heartbeatMs !== null && !deliverer.says('heartbeat')) {
      throw fail('CONFIG_INVALID', { detail: `a sink of type ${sink.type} cannot carry heartbeats` });
    }
    const unsaid = sink.types?.find((type) => !deliverer.says(type));
    if (unsaid !== undefined) {
      throw fail('CONFIG_INVALID', { detail: `a sink of type ${sink.type} has no way to say ${unsaid}` });
    }
    return guarded(deliverer);
  } catch (error) {
    if (!(error instanceof RingfenceError)) throw error;
    throw fail(error.code, { ...error.facts, detail: `sinks.${name}: ${error.message}` }, { cause: error });
  }
}

/** A fault of ours in the words for a receiver is a failed attempt like any other, not the end of the loop. */
function guarded(deliverer: Deliverer): Deliverer {
  return {
    ...deliverer,
    async send(alert, signal) {
      try {
        return await deliverer.send(alert, signal);
      } catch (error) {
        return failed(printable(`could not be put into words: ${messageOf(error)}`));
      }
    },
  };
}

function openKind(sink: Sink, rules: SinkRules, http: HttpOptions): Deliverer {
  switch (sink.type) {
    case 'webhook':
      return openWebhook(sink, http);
    case 'slack':
      return openSlack(sink, http);
    case 'pagerduty':
      return openPagerDuty(sink, http);
    case 'alertmanager':
      return openAlertmanager(sink, http, rules.heartbeatMs);
    case 'journald':
      return openJournald(sink);
    case 'exec':
      return openExec(sink);
    default:
      return assertNever(sink);
  }
}
