import type { Socket } from 'node:net';
import { checkServerIdentity, connect, createSecureContext, getCACertificates, type SecureContext } from 'node:tls';
import { messageOf } from '../../core/errors.ts';
import { connectApproved } from '../upstream.ts';
import type { Protocol } from './offered-protocols.ts';

/** The way on to the inspected name, or why there is none. `untrusted`: somebody answered who could not prove the name. */
export type Reached =
  | { readonly kind: 'reached'; readonly socket: Socket; readonly protocol: Protocol }
  | { readonly kind: 'unreachable' | 'untrusted'; readonly explanation: string };

export type Target = {
  readonly name: string;
  readonly port: number;
  readonly addresses: readonly string[];
  readonly protocol: 'tls' | 'http';
  /** What the client offered, so that both sides speak the same. */
  readonly offered: readonly Protocol[] | null;
};

const HANDSHAKE_MS = 10_000;

/** Roots by which a name is believed: the host's own store, and where that is empty the ones Node.js brings. */
export function upstreamTrust(extraCa: readonly string[] | undefined): SecureContext {
  const system = getCACertificates('system');
  const roots = system.length > 0 ? system : getCACertificates('bundled');
  return createSecureContext({ ca: [...(extraCa ?? roots)], minVersion: 'TLSv1.2' });
}

export async function reach(target: Target, trust: SecureContext, signal: AbortSignal): Promise<Reached> {
  const socket = await connectApproved(target, signal);
  if (socket === null) {
    return { kind: 'unreachable', explanation: `${target.name}:${target.port} does not answer` };
  }
  // A name that says no more has ended; TLS takes this over from the socket below it.
  socket.allowHalfOpen = false;
  if (target.protocol === 'http') return { kind: 'reached', socket, protocol: 'http/1.1' };
  return await secured(socket, target, trust, signal);
}

async function secured(socket: Socket, target: Target, trust: SecureContext, signal: AbortSignal): Promise<Reached> {
  return await new Promise((resolve) => {
    const { name, offered } = target;
    const secure = connect({
      socket,
      servername: name,
      secureContext: trust,
      rejectUnauthorized: true,
      checkServerIdentity,
      ...(offered === null ? {} : { ALPNProtocols: [...offered] }),
    });
    const settle = (result: Reached): void => {
      clearTimeout(timer);
      signal.removeEventListener('abort', abort);
      secure.removeListener('error', refused);
      secure.removeListener('close', closed);
      if (result.kind !== 'reached') {
        secure.on('error', () => undefined);
        secure.destroy();
        socket.destroy();
      }
      resolve(result);
    };
    const unreachable = (why: string): void => {
      settle({ kind: 'unreachable', explanation: `${name}:${target.port} ${why}` });
    };
    const abort = (): void => unreachable('was not waited for');
    const closed = (): void => unreachable('closed the connection during the TLS handshake');
    const refused = (error: Error & { readonly code?: string }): void => {
      // What the handshake of TLS itself ran into has one of these codes; anything else is about the certificate.
      if (/^(?:ERR_SSL_|ECONN|EPIPE|ETIMEDOUT|EPROTO)/.test(error.code ?? '')) {
        unreachable(`failed the TLS handshake (${messageOf(error)})`);
        return;
      }
      const explanation = `the certificate of ${name}:${target.port} does not prove the name: ${messageOf(error)}`;
      settle({ kind: 'untrusted', explanation });
    };
    const timer = setTimeout(() => unreachable('did not finish the TLS handshake'), HANDSHAKE_MS);
    signal.addEventListener('abort', abort, { once: true });
    secure.once('error', refused);
    secure.once('close', closed);
    secure.once('secureConnect', () => {
      const protocol = secure.alpnProtocol === 'h2' ? 'h2' : 'http/1.1';
      settle({ kind: 'reached', socket: secure, protocol });
    });
  });
}
