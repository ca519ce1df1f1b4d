import { mkdirSync } from 'node:fs';
import { cpus } from 'node:os';
import { messageOf } from '../core/errors.ts';
import { openIpset } from '../kernel/ipset.ts';
import type { Ipset } from '../kernel/ipset.ts';
import { bootTimeMs, pollDescriptors } from '../kernel/libc.ts';
import { openLinks } from '../kernel/links.ts';
import { openNflog } from '../kernel/nflog.ts';
import type { Nflog } from '../kernel/nflog.ts';
import { OOM_SCORES, protectFromOom } from '../kernel/oom.ts';
import { comeFirst } from '../kernel/priority.ts';
import { openRuleNews } from '../kernel/rule-news.ts';
import { keepSpareFiles } from '../kernel/spare-files.ts';
import { detectLayout, hasCgroupKill } from '../meter/layout.ts';
import { createTraffic } from '../meter/traffic.ts';
import type { Traffic } from '../meter/traffic.ts';
import { FEED, openAfterlife } from './afterlife.ts';
import type { Afterlife } from './afterlife.ts';
import { DENIED_NAMES_FD, parseWardenConfig, REQUESTS_FD } from './config.ts';
import type { WardenConfig } from './config.ts';
import { runWardenLoop } from './loop.ts';
import { endPredecessor } from './predecessor.ts';

/**
 * The process of the warden: `node warden/process.js CONFIG` with the daemon at descriptor 3 and the DNS gate at 4.
 * Its event loop never turns, so no handler of a signal may be installed here: SIGTERM ends it at once.
 */

/** The warden of a daemon that died holds the feed until it sees the new claim, which it looks for every 200 ms. */
const FEED_MS_MAX = 4_000;
const PREDECESSOR_MS_MAX = 2_000;
const FEED_TRY_MS = 20;

function main(): void {
  const config = parseWardenConfig(process.argv[2]);
  mkdirSync(config.directory, { recursive: true, mode: 0o700 });
  protectFromOom(OOM_SCORES.warden);
  comeFirst();
  keepSpareFiles();
  const afterlife = openAfterlife(config.directory);
  const feed =
    config.nflogGroup === null ? null : openFeed(config.nflogGroup, { afterlife, directory: config.directory });
  const egressHeldByKernel = config.egressHeldByKernel && feed !== null;
  const ipset = config.silenceSet !== null || config.trafficSets !== null ? openIpset() : null;
  const traffic = ipset === null ? null : openTraffic(config, { ipset, onlyReported: egressHeldByKernel });
  runWardenLoop({
    requestsFd: REQUESTS_FD,
    deniedNamesFd: DENIED_NAMES_FD,
    killRung: hasCgroupKill(detectLayout()) ? 'cgroup.kill' : 'pidfd',
    feed,
    links: config.silenceSet === null ? null : openLinks(),
    ruleNews: config.silenceSet === null ? null : openRuleNews(),
    ipset,
    silenceSet: config.silenceSet,
    traffic,
    egressHeldByKernel,
    cpusOnline: Math.max(1, cpus().length),
    afterlife,
    turningEveryMs: config.turningEveryMs,
  });
}

/** Null when it cannot be had: the daemon hears so in `ready`, and decides. */
function openFeed(
  group: number,
  { afterlife, directory }: { readonly afterlife: Afterlife; readonly directory: string },
): Nflog | null {
  let predecessor = afterlife.holder(FEED);
  afterlife.hold(FEED);
  const startedAtMs = bootTimeMs();
  for (;;) {
    try {
      return openNflog({ group });
    } catch (error) {
      const waitedMs = bootTimeMs() - startedAtMs;
      if (waitedMs > PREDECESSOR_MS_MAX && predecessor !== null) {
        if (endPredecessor({ pid: predecessor, directory })) {
          process.stderr.write(`warden: the one before, process ${predecessor}, stood still and was ended\n`);
        }
        predecessor = null;
      }
      if (waitedMs > FEED_MS_MAX) {
        process.stderr.write(`warden: no feed of denied packets: ${messageOf(error)}\n`);
        return null;
      }
    }
    pollDescriptors([], FEED_TRY_MS);
  }
}

function openTraffic(
  config: WardenConfig,
  options: { readonly ipset: Ipset; readonly onlyReported: boolean },
): Traffic | null {
  if (config.trafficSets === null) return null;
  const { egress: egressSet, ingress: ingressSet, connections: connectionsSet } = config.trafficSets;
  return createTraffic({ ...options, egressSet, ingressSet, connectionsSet });
}

main();
