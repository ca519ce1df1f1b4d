/** What a person is asked: one name or one address, of one run, under one rule of its profile. */
export type HeldRequest =
  | {
      readonly kind: 'name';
      /** Canonical; under a wildcard the name that was asked, not the rule. */
      readonly name: string;
      /** What approval opens: every port of the rule. */
      readonly ports: readonly { readonly port: number; readonly protocol: 'tcp' | 'udp' }[];
      /** The line of `egress.ask`. */
      readonly rule: string;
    }
  | {
      readonly kind: 'address';
      readonly address: string;
      readonly port: number;
      readonly protocol: 'tcp' | 'udp';
      readonly rule: string;
    };

/** How long what was approved stays open; what was begun within it may go on. */
export type ApprovalLifetime = { readonly forMs: number };

/** Two requests with the same key are one question. */
export function heldRequestKey(request: HeldRequest): string {
  return request.kind === 'name' ? request.name : `${request.address}:${request.port}/${request.protocol}`;
}
