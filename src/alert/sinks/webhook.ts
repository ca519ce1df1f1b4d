import { fail } from '../../core/errors.ts';
import type { WebhookSink } from '../../core/ports/alert.ts';
import type { Deliverer } from '../deliverer.ts';
import type { HttpOptions } from '../http.ts';
import { openEndpoint } from '../http.ts';
import { parseKey, signatures } from '../signature.ts';

/** A sink that speaks Standard Webhooks 1.0. Throws CONFIG_INVALID for one that can never work. */
export function openWebhook(sink: WebhookSink, options: HttpOptions): Deliverer {
  const endpoint = openEndpoint(sink, { ...options, secrets: sink.keys });
  const keys = sink.keys.map(parseKey);
  if (keys.length === 0) {
    throw fail('CONFIG_INVALID', { detail: `the sink ${new URL(sink.url).origin} has no key to sign with` });
  }
  return {
    kind: 'webhook',
    says: () => true,
    async send({ id, body }, signal) {
      const timestamp = Math.floor(options.nowMs() / 1000);
      const headers = {
        'webhook-id': id,
        'webhook-timestamp': String(timestamp),
        'webhook-signature': signatures(keys, { id, body, timestamp }),
      };
      return await endpoint.post({ body, headers }, () => null, signal);
    },
  };
}
