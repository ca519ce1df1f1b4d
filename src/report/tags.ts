import type { Breach } from '../core/outcome.ts';

/**
 * What others call such a thing: techniques of MITRE ATLAS 5.6 and risks of OWASP's Top 10 for Agentic Applications
 * 2026. They help to sort incidents, and never decide one; where nothing fits there is none.
 */
const REVERSE_SHELL = 'ATLAS AML.T0072 Reverse Shell';
const EXFILTRATION = 'ATLAS AML.T0025 Exfiltration via Cyber Means';
const COST_HARVESTING = 'ATLAS AML.T0034.002 Agentic Resource Consumption';
const UNSECURED_CREDENTIALS = 'ATLAS AML.T0055 Unsecured Credentials';
const ESCAPE = 'ATLAS AML.T0105 Escape to Host';
const TOOL_MISUSE = 'OWASP ASI02 Tool Misuse';
const PRIVILEGE_ABUSE = 'OWASP ASI03 Identity and Privilege Abuse';
const CASCADING = 'OWASP ASI08 Cascading Failures';
const ROGUE = 'OWASP ASI10 Rogue Agents';

const SSH_PORT = 22;
/** Usual ports of pools: a label, since a pool can listen anywhere. */
const POOL_PORTS = new Set([3333, 4444, 14444]);

export function tagsOf(breaches: readonly Breach[]): readonly string[] {
  return [...new Set(breaches.flatMap(ownTags))];
}

function ownTags(breach: Breach): readonly string[] {
  switch (breach.reason) {
    case 'egress.forbidden':
    case 'budget.denials':
      return denialTags(breach);
    case 'budget.egress':
      return [EXFILTRATION, TOOL_MISUSE];
    case 'budget.cpu':
    case 'budget.gpu':
    case 'limit.gpu':
      return [COST_HARVESTING, TOOL_MISUSE];
    case 'oom':
    case 'limit.pids':
    case 'limit.disk':
    case 'budget.connections':
    case 'budget.ingress':
      return [CASCADING];
    case 'enforcement.lost':
      return [ROGUE];
    default:
      return [];
  }
}

function denialTags({ denial }: Breach): readonly string[] {
  if (denial === null) return [TOOL_MISUSE];
  if (denial.kind === 'spoof') return [ESCAPE, ROGUE];
  if (denial.rule === 'egress.host') return [ESCAPE, TOOL_MISUSE];
  if (denial.destination.startsWith('169.254.')) return [UNSECURED_CREDENTIALS, PRIVILEGE_ABUSE];
  if (denial.port === SSH_PORT) return [REVERSE_SHELL, ROGUE];
  if (denial.port !== null && POOL_PORTS.has(denial.port)) return [COST_HARVESTING, ROGUE];
  return [EXFILTRATION, TOOL_MISUSE];
}
