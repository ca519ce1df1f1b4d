import { deviceName } from '../kernel/libc.ts';
import type { LinkFacts, LinkNews, Links } from '../kernel/links.ts';

/**
 * A run has one road out, the port of its own bridge, and the fence stands there. Whoever holds the engine's socket can
 * give its container another one. The kernel tells of that before the engine does, and before the new device has an
 * address: it is removed at once, and the run is ended.
 *
 * A network namespace goes by a number here, which the port of the run's bridge tells. The number belongs to the run as
 * long as it has a process, because the namespace cannot go before that; it is given to another one afterwards.
 */
export type ForeignLinks = {
  readonly fd: number;
  /** Calls back with the bridge of each run that was given another road. */
  read(onForeign: (bridge: string) => void): void;
  /** The same for what was there before this run was known. */
  lookAgain(onForeign: (bridge: string) => void): void;
  close(): void;
};

export type ForeignLinksOptions = {
  readonly links: Links;
  /** True for the bridge of a run that is not over. */
  readonly isOfRun: (bridge: string) => boolean;
  /** True for one that has a process now, and with it its namespace. */
  readonly isOfLivingRun: (bridge: string) => boolean;
  readonly complain: (what: string, error: unknown) => void;
  /** For tests. */
  readonly nameOf?: (index: number) => string | null;
};

/** Beyond any host; what is more is forgotten, oldest first. */
const PORTS_MAX = 16_384;

export function createForeignLinks(options: ForeignLinksOptions): ForeignLinks {
  const { links, isOfRun, isOfLivingRun, complain } = options;
  const nameOf = options.nameOf ?? deviceName;
  /** Ends of pairs that lie here, with their other end in another namespace; by index. */
  const ports = new Map<number, LinkFacts>();
  /** The namespace of a run by its bridge, kept when its port is taken away while it lives. */
  const homes = new Map<number, string>();

  const bridgeOf = (port: LinkFacts): string | null => {
    const bridge = port.master === null ? null : nameOf(port.master);
    return bridge !== null && isOfRun(bridge) ? bridge : null;
  };

  const homeOf = (namespace: number): string | null => {
    for (const port of ports.values()) {
      if (port.peerNamespace !== namespace) continue;
      const bridge = bridgeOf(port);
      if (bridge !== null) remember(homes, namespace, bridge);
    }
    const home = homes.get(namespace);
    return home !== undefined && isOfLivingRun(home) ? home : null;
  };

  /** The bridge of the run that this is a second road of, or null. */
  const judge = (port: LinkFacts): string | null => {
    if (port.peerNamespace === null) return null;
    const home = homeOf(port.peerNamespace);
    return home === null || bridgeOf(port) === home ? null : home;
  };

  const remove = (index: number): void => {
    ports.delete(index);
    try {
      links.remove(index);
    } catch (error) {
      // The kill that follows ends its traffic too.
      complain('a foreign network device could not be removed', error);
    }
  };

  const take = (news: LinkNews): string | null => {
    switch (news.kind) {
      case 'reset':
        ports.clear();
        return null;
      case 'gone':
        ports.delete(news.index);
        // Of a pair the end that stays here is seen next, and can be removed; what has no such end cannot.
        return news.linkKind === 'veth' || news.movedTo === null ? null : homeOf(news.movedTo);
      case 'link': {
        if (news.linkKind !== 'veth' || news.peerNamespace === null) {
          ports.delete(news.index);
          return null;
        }
        remember(ports, news.index, news);
        const foreignTo = judge(news);
        if (foreignTo !== null) remove(news.index);
        return foreignTo;
      }
      default:
        return news satisfies never;
    }
  };

  return {
    fd: links.fd,
    read: (onForeign) => {
      for (const news of links.read()) {
        const bridge = take(news);
        if (bridge !== null) onForeign(bridge);
      }
    },
    lookAgain: (onForeign) => {
      for (const port of ports.values()) {
        const bridge = judge(port);
        if (bridge === null) continue;
        remove(port.index);
        onForeign(bridge);
      }
    },
    close: () => links.close(),
  };
}

function remember<Value>(map: Map<number, Value>, key: number, value: Value): void {
  map.delete(key);
  map.set(key, value);
  const oldest = map.size > PORTS_MAX ? map.keys().next().value : undefined;
  if (oldest !== undefined) map.delete(oldest);
}
