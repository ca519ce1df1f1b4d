import type { FenceName } from '../../src/core/ports/fence.ts';
import { nameGrant } from './grants.ts';

/** Ports whose connections must show the name, as the profile's plain lines ask for. */
export const TLS = { port: 443, protocol: 'tcp', check: 'tls' } as const;
export const HTTP = { port: 80, protocol: 'tcp', check: 'http' } as const;

/** `docs.example.test` or `*.pkg.example.test`. */
export function checkedName(text: string, ports: FenceName['ports'] = [TLS]): FenceName {
  return nameGrant(text.replace(/^\*\./, ''), { wildcard: text.startsWith('*.'), ports });
}
