import { assertNever } from '../core/assert.ts';
import { fail } from '../core/errors.ts';
import type { RetrySelection } from '../core/ports/alert.ts';
import type { OutputChunk } from '../core/ports/engine.ts';
import type { LedgerRecord } from '../core/ports/record.ts';
import type { Answers } from './contract.ts';
import { ATTACH_PROTOCOL } from './endpoints.ts';
import type { CheckedRequest } from './request.ts';
import type { Caller, Service } from './service.ts';

export type Answer =
  | { readonly kind: 'json'; readonly value: Answers[keyof Answers] }
  | { readonly kind: 'text'; readonly text: string }
  | { readonly kind: 'records'; readonly records: AsyncIterable<LedgerRecord> }
  | { readonly kind: 'output'; readonly chunks: AsyncIterable<OutputChunk> };

export type HandlerContext = {
  readonly service: Service;
  readonly caller: Caller;
  /** Aborted when the client is gone or the daemon stops. */
  readonly signal: AbortSignal;
};

/** One checked request to one call of the service. */
export async function answerRequest(request: CheckedRequest, context: HandlerContext): Promise<Answer> {
  const { service, caller, signal } = context;
  switch (request.name) {
    case 'health':
      return json(service.health());
    case 'launch':
      return json(await service.launch(request.body, caller));
    case 'list':
      return json(await service.list({ all: request.query.all === 'true' }));
    case 'inspect':
      return json(await service.inspect(request.params.run));
    case 'wait':
      return json(await service.wait(request.params.run, signal));
    case 'stop':
      await service.stop(request.params.run, caller);
      return json(null);
    case 'kill':
      await service.kill(request.params.run, caller);
      return json(null);
    case 'resume':
      await service.resume(request.params.run, caller);
      return json(null);
    case 'reload':
      return json(await service.reload(request.body, caller));
    case 'approvals':
      return json(await service.approvals({ all: request.query.all === 'true' }));
    case 'approve': {
      const { forSeconds } = request.body;
      const options = { forMs: forSeconds === null ? null : forSeconds * 1_000 };
      return json(await service.approve(request.params.id, options, caller));
    }
    case 'deny':
      return json(await service.deny(request.params.id, request.body, caller));
    case 'logs': {
      const { follow, tail } = request.query;
      const options = { follow: follow === 'true', tailLines: tail === undefined ? null : Number(tail) };
      return { kind: 'output', chunks: service.logs(request.params.run, options, signal) };
    }
    case 'events': {
      const { follow, since, run } = request.query;
      const options = {
        follow: follow === 'true',
        sinceMs: since === undefined ? null : Number(since),
        run: run ?? null,
      };
      return { kind: 'records', records: service.events(options, signal) };
    }
    case 'incidents':
      return json(await service.incidents());
    case 'incident':
      return json(await service.incident(request.params.id));
    case 'why':
      return json(await service.why(request.params.reference));
    case 'release':
      await service.release(request.params.profile, caller);
      return json(null);
    case 'doctor':
      return json(await service.doctor());
    case 'gc':
      return json(await service.gc(caller));
    case 'checkpoint':
      return json(await service.checkpoint(caller));
    case 'rotateKey':
      return json(await service.rotateKey(caller));
    case 'alerts':
      return json(await service.alerts());
    case 'testAlert':
      return json(await service.testAlert(request.body.sink, caller));
    case 'retryAlerts':
      return json(await service.retryAlerts(selectionOf(request.body), caller));
    case 'metrics':
      return { kind: 'text', text: await service.metrics() };
    case 'attach':
      throw fail('REQUEST_INVALID', { detail: `attach needs the header \`Upgrade: ${ATTACH_PROTOCOL}\`` });
    default:
      return assertNever(request);
  }
}

function json(value: Answers[keyof Answers]): Answer {
  return { kind: 'json', value };
}

function selectionOf(body: {
  readonly kind: RetrySelection['kind'];
  readonly id?: string | undefined;
}): RetrySelection {
  if (body.kind !== 'id') return { kind: body.kind };
  if (body.id === undefined) throw fail('REQUEST_INVALID', { detail: 'body.id is required with the kind "id"' });
  return { kind: 'id', id: body.id };
}
