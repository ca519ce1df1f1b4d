import type { Socket } from 'node:net';
import type { FenceRequestRule } from '../../core/ports/fence.ts';
import type { CheckRule } from '../messages.ts';

/**
 * Looks inside the connections of inspected names. The checker has read a listed name from the first bytes and asked
 * the gate; from then on the connection is the inspector's, which speaks for the name to the agent and for the agent
 * to the name, and judges each request.
 */
export type Inspector = {
  /** Makes the authority of a run, or gives the one it has. Its key lives in this process and nowhere else. */
  authority(source: string, runId: string): Promise<string /* certificate PEM */>;
  /** Throws away the authority of a run and cuts what is open under it. Idempotent. */
  forget(source: string): void;
  /** Owns the socket until it is closed; resolves then, and never rejects. Without an authority the connection is closed. */
  inspect(connection: InspectedConnection): Promise<void>;
};

export type InspectedConnection = {
  readonly source: string;
  readonly client: Socket;
  /** What was read from the socket already, with which everything begins. */
  readonly head: Buffer;
  /** Canonical. */
  readonly name: string;
  readonly port: number;
  readonly protocol: 'tls' | 'http';
  /** Approved for this name and run; tried in order. */
  readonly addresses: readonly string[];
  /** Empty: every request to this name may pass. */
  readonly requests: readonly FenceRequestRule[];
  readonly deny: (rule: CheckRule, explanation: string) => void;
  readonly count: (bytes: { readonly egress: number; readonly ingress: number }) => void;
};
