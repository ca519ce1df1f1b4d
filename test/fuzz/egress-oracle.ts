import { addressVerdict, canonicaliseName, nameVerdict } from '../../src/policy/egress.ts';
import type { EgressRule, Spec } from '../../src/profile/spec.ts';

/** What no text that a person can write may ever open, and what no rule may open that did not name it. */
const NEVER_ADDRESSES = ['127.0.0.1', '127.255.255.254', '169.254.169.254', '0.0.0.0', '224.0.0.1', '255.255.255.255'];
const NEVER_NAMES = ['localhost', 'metadata.google.internal', 'com', 'x.localhost', 'host.docker.internal'];
const PORTS = [22, 53, 80, 443];

/** A sentence when the rules allow what must never be, else null. */
export function neverAllowed(egress: Spec['egress']): string | null {
  for (const address of NEVER_ADDRESSES) {
    for (const port of PORTS) {
      const verdict = addressVerdict(egress, { address, port, protocol: 'tcp' });
      if (verdict.kind !== 'deny') return `${address}:${port} is reached by ${verdict.rule.text}`;
    }
  }
  for (const name of NEVER_NAMES) {
    const verdict = nameVerdict(egress, name);
    if (verdict.kind !== 'deny') return `${name} is reached by ${verdict.rule.text}`;
  }
  return null;
}

const NAME = /^(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?$/;

/** A rule opens what its text shows, letter by letter. */
export function notAsWritten(rule: EgressRule): string | null {
  const { text } = rule;
  for (const { port } of rule.ports) {
    if (!Number.isInteger(port) || port < 1 || port > 65_535) return `${text} opens port ${port}`;
    if (port !== 443 && !text.includes(String(port))) return `${text} opens port ${port}`;
  }
  if (rule.kind === 'address') {
    return text.startsWith(`${rule.network}/${rule.prefixLength}`) && rule.prefixLength >= 8
      ? null
      : `${text} opens ${rule.network}/${rule.prefixLength}`;
  }
  const written = text.toLowerCase().replace(/:.*$/s, '').replace(/\.$/, '');
  if (written !== (rule.wildcard ? `*.${rule.name}` : rule.name)) return `${text} opens ${rule.name}`;
  return NAME.test(rule.name) ? null : `${text} opens ${rule.name}, which is no name`;
}

const LISTED: EgressRule[] = ['good.test', 'wild.test'].map((name, index) => ({
  kind: 'name',
  text: name,
  name,
  wildcard: index === 1,
  ports: [{ port: 443, protocol: 'tcp', check: 'tls' }],
  inspect: false,
  requests: [],
}));

/** By other means than the policy: a name is allowed when its letters are those of a listed one, and only then. */
export function wronglyJudged(text: string): string | null {
  const canonical = canonicaliseName(text);
  if (!canonical.ok) return null;
  const isListed = canonical.name === 'good.test' || /^.+\.wild\.test$/s.test(canonical.name);
  const verdict = nameVerdict({ allow: LISTED, ask: [] }, canonical.name);
  if ((verdict.kind === 'allow') !== isListed) return `${JSON.stringify(text)} is judged ${verdict.kind}`;
  const letters = text.toLowerCase().replace(/\.$/, '');
  return letters === canonical.name ? null : `${JSON.stringify(text)} is taken for ${canonical.name}`;
}
