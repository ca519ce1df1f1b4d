import { FENCE_SETS } from '../core/fence-names.ts';

const RUNS_MAX = 65_536;
const ENTRIES_MAX = 1_048_576;
/** Destinations of all runs together. When they are too many, the kernel forgets one at random for each new one. */
const FLOWS_MAX = 65_536;

/** The sets that the rules name, as `ipset restore` takes them. `-exist` leaves a set of the same kind as it is. */
export function setDeclarations(): readonly string[] {
  const counters = `hash:ip family inet maxelem ${RUNS_MAX} counters`;
  const opened = `hash:ip,port,ip family inet maxelem ${ENTRIES_MAX}`;
  const networks = `hash:ip,port,net family inet maxelem ${ENTRIES_MAX}`;
  return [
    `create ${FENCE_SETS.bridge} hash:net,iface family inet maxelem ${RUNS_MAX}`,
    `create ${FENCE_SETS.waiting} hash:ip family inet maxelem ${RUNS_MAX}`,
    `create ${FENCE_SETS.learned} ${opened} timeout 120`,
    `create ${FENCE_SETS.checked} ${opened} timeout 120`,
    `create ${FENCE_SETS.approved} ${opened} timeout 120`,
    `create ${FENCE_SETS.refused} ${opened}`,
    `create ${FENCE_SETS.written} ${networks}`,
    `create ${FENCE_SETS.ask} ${networks}`,
    `create ${FENCE_SETS.never} hash:net family inet maxelem 1024`,
    `create ${FENCE_SETS.budget} ${counters}`,
    `create ${FENCE_SETS.ingressBudget} ${counters}`,
    `create ${FENCE_SETS.connectionBudget} ${counters}`,
    `create ${FENCE_SETS.flows} hash:ip,port,ip family inet maxelem ${FLOWS_MAX} counters forceadd`,
    `create ${FENCE_SETS.connections} ${counters}`,
    `create ${FENCE_SETS.egress} ${counters}`,
    `create ${FENCE_SETS.ingress} ${counters}`,
    `create ${FENCE_SETS.denied} ${counters}`,
  ];
}
