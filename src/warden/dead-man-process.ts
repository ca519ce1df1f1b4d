import { existsSync, readFileSync, writeSync } from 'node:fs';
import { assertNever } from '../core/assert.ts';
import { messageOf } from '../core/errors.ts';
import { USAGE_NONE } from '../core/outcome.ts';
import { bootTimeMs, openPidfd, POLLIN, pollDescriptors } from '../kernel/libc.ts';
import { OOM_SCORES, protectFromOom } from '../kernel/oom.ts';
import { keepSpareFiles } from '../kernel/spare-files.ts';
import { killNow, pidsOf } from '../meter/processes.ts';
import { openAfterlife } from './afterlife.ts';
import type { Afterlife } from './afterlife.ts';
import { lostDaemonBreach } from './breaches.ts';
import type { DeadManRequest } from './dead-man.ts';
import { DEAD_MAN_FD } from './dead-man.ts';
import { createLineReader } from './lines.ts';

/**
 * The dead-man: `node warden/dead-man-process.js DIRECTORY WARDEN`, a process for the case that daemon and warden are
 * both gone. It holds the runs whose profile says `supervisor.lost: kill` in memory and a pidfd of the warden that holds
 * them; it waits in poll(2) and does nothing while that warden is there.
 *
 *   guarded ──the warden ends, or stands still without a daemon──▶ alone ──`for` is over──▶ killed, until its cgroup is gone
 *      │                                                           │
 *      └── released by the daemon                                  └── another warden has taken the run: let go
 *
 * It ends when the daemon is gone and nothing is left to guard.
 */
const LINE_BYTES_MAX = 64 * 1024;
const IDLE_TICK_MS = 60_000;
const ALONE_TICK_MS = 500;
const KILL_AGAIN_MS = 50;

type Guarded = Extract<DeadManRequest, { kind: 'guard' }> & { killed: boolean };

class DeadMan {
  private readonly guarded = new Map<string, Guarded>();
  private readonly afterlife: Afterlife;
  private readonly wardenPid: number;
  private readonly wardenPidfd: number | null;
  private readonly requests = createLineReader({ fd: DEAD_MAN_FD, lineBytesMax: LINE_BYTES_MAX });
  private daemonGone = false;
  private aloneSinceMs: number | null = null;

  constructor(options: { readonly directory: string; readonly wardenPid: number }) {
    this.afterlife = openAfterlife(options.directory);
    this.wardenPid = options.wardenPid;
    this.wardenPidfd = pidfdOf(options.wardenPid);
  }

  run(): void {
    while (!this.daemonGone || this.guarded.size > 0) {
      this.wait();
      const now = bootTimeMs();
      this.aloneSinceMs = this.isHeld() ? null : (this.aloneSinceMs ?? now);
      if (this.aloneSinceMs === null) continue;
      for (const each of this.guarded.values()) this.look(each, now - this.aloneSinceMs);
      this.afterlife.save();
    }
  }

  private wait(): void {
    const entries = this.daemonGone ? [] : [{ fd: DEAD_MAN_FD, events: POLLIN }];
    if (this.aloneSinceMs === null && this.wardenPidfd !== null) entries.push({ fd: this.wardenPidfd, events: POLLIN });
    const ready = pollDescriptors(entries, this.tickMs());
    if (this.daemonGone || (ready[0] ?? 0) === 0) return;
    try {
      this.daemonGone = this.requests.read((line) => this.serve(JSON.parse(line) as DeadManRequest)) === 'ended';
    } catch (error) {
      process.stderr.write(`dead-man: the daemon’s socket failed: ${messageOf(error)}\n`);
      this.daemonGone = true;
    }
  }

  /** As long as daemon and warden are there it has nothing to wake for. */
  private tickMs(): number {
    const alone = this.daemonGone || this.aloneSinceMs !== null;
    const dying = [...this.guarded.values()].some((each) => each.killed && pidsOf(each.parentPaths).length > 0);
    return dying ? KILL_AGAIN_MS : alone ? ALONE_TICK_MS : IDLE_TICK_MS;
  }

  private serve(request: DeadManRequest): void {
    switch (request.kind) {
      case 'guard':
        this.guarded.set(request.runId, { ...request, killed: false });
        writeSync(DEAD_MAN_FD, `${request.runId}\n`);
        return;
      case 'release':
        this.guarded.delete(request.runId);
        return;
      default:
        assertNever(request);
    }
  }

  /** A warden that was stopped holds nothing; while there is a daemon, that notices it. */
  private isHeld(): boolean {
    const fd = this.wardenPidfd;
    if (fd === null || (pollDescriptors([{ fd, events: POLLIN }], 0)[0] ?? 0) !== 0) return false;
    return !this.daemonGone || !isStopped(this.wardenPid);
  }

  private look(each: Guarded, aloneMs: number): void {
    const { runId, parentPaths, afterMs } = each;
    // The next daemon has a warden and a dead-man of its own.
    const taken = this.afterlife.takenByOther(runId) && this.afterlife.holder(runId) !== this.wardenPid;
    if (taken || !existsSync(parentPaths.pids)) {
      this.guarded.delete(runId);
      return;
    }
    const breach = lostDaemonBreach(aloneMs, afterMs);
    if (breach === null) return;
    const anybody = pidsOf(parentPaths).length > 0;
    if (anybody) killNow(parentPaths);
    if (each.killed || !anybody) return;
    each.killed = true;
    const times = { detectedMs: null, signalledMs: null, emptyMs: null };
    const at = new Date().toISOString();
    this.afterlife.record({ kind: 'breached', runId, breach, usage: USAGE_NONE, times, processes: [] }, at);
  }
}

function pidfdOf(pid: number): number | null {
  try {
    return openPidfd(pid);
  } catch {
    // It is gone already.
    return null;
  }
}

function isStopped(pid: number): boolean {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'latin1');
    return 'Tt'.includes(stat.charAt(stat.lastIndexOf(')') + 2));
  } catch {
    return false;
  }
}

function main(): void {
  const [, , directory = '', wardenPid = ''] = process.argv;
  protectFromOom(OOM_SCORES.warden);
  keepSpareFiles();
  new DeadMan({ directory, wardenPid: Number(wardenPid) }).run();
}

main();
