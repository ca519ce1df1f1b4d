import type { Alert, AlertType, SinkKind } from '../core/ports/alert.ts';

/**
 * How an attempt ended. `gone`: the receiver says that it wants nothing more (410). `rejected`: it will never take this
 * alert, so it is kept for a person at once. `failed`: try again.
 */
export type Delivery =
  | { readonly kind: 'delivered'; readonly status: number }
  | { readonly kind: 'gone'; readonly message: string }
  | { readonly kind: 'rejected'; readonly message: string }
  | { readonly kind: 'failed'; readonly message: string; readonly retryAfterMs: number | null };

/** One sink, ready to send. */
export type Deliverer = {
  readonly kind: SinkKind;
  /** Whether the receiver has a way to say this at all. */
  says(type: AlertType): boolean;
  /** Resolves whatever happens, within a time of its own; ends early when `signal` does. */
  send(alert: Alert, signal: AbortSignal): Promise<Delivery>;
};

export function failed(message: string, retryAfterMs: number | null = null): Delivery {
  return { kind: 'failed', message, retryAfterMs };
}
