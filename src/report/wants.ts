import type { HeldRequest } from '../core/approval.ts';
import { printable } from '../core/text.ts';

const PORTS_SHOWN_MAX = 8;
const NAME_CHARS_MAX = 253;

/** What an agent asks for, in one printable phrase: `api.example.com on 443/tcp`, `192.0.2.7:22/tcp`. */
export function describeRequest(request: HeldRequest): string {
  if (request.kind === 'address') return printable(`${request.address}:${request.port}/${request.protocol}`);
  const ports = request.ports.slice(0, PORTS_SHOWN_MAX).map(({ port, protocol }) => `${port}/${protocol}`);
  const more = request.ports.length > ports.length ? ` and ${request.ports.length - ports.length} more` : '';
  return `${printable(request.name, NAME_CHARS_MAX)} on ${ports.join(', ')}${more}`;
}
