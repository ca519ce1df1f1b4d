import { SystemCallError } from './libc.ts';
import { openNetlink } from './netlink.ts';

/**
 * The kernel's word that rules of the packet filter were changed (group NFTABLES of nfnetlink). Of rules that legacy
 * iptables makes it says nothing. Nothing here waits: put `fd` into poll(2) and call `changed` when it is readable.
 */
export type RuleNews = {
  readonly fd: number;
  /** Reads whatever has come; true when there was any. */
  changed(): boolean;
  close(): void;
};

/** NFNLGRP_NFTABLES is the seventh. */
const GROUP_NFTABLES = 1 << 6;
const ENOBUFS = 105;

export function openRuleNews(): RuleNews {
  const socket = openNetlink({ groups: GROUP_NFTABLES, receiveBufferBytes: null });
  return {
    fd: socket.fd,
    changed: () => {
      let any = false;
      for (;;) {
        try {
          if (socket.receive() === null) return any;
        } catch (error) {
          // More than fits has come; what it was is not of interest.
          if (!(error instanceof SystemCallError && error.errno === ENOBUFS)) throw error;
        }
        any = true;
      }
    },
    close: () => socket.close(),
  };
}
