import type { Service } from '../api/service.ts';

/** The service in its two halves: what is about runs, and what is about the host they run on. */
export type HostService = Pick<
  Service,
  'doctor' | 'gc' | 'checkpoint' | 'rotateKey' | 'alerts' | 'testAlert' | 'retryAlerts' | 'metrics'
>;
export type RunService = Omit<Service, keyof HostService>;

/** One object of both, written out, so that a call that nobody answers does not compile. */
export function serviceOf(runs: RunService, host: HostService): Service {
  return {
    health: () => runs.health(),
    launch: (request, caller) => runs.launch(request, caller),
    attach: (runId, caller) => runs.attach(runId, caller),
    list: (options) => runs.list(options),
    inspect: (run) => runs.inspect(run),
    wait: (run, signal) => runs.wait(run, signal),
    stop: (run, caller) => runs.stop(run, caller),
    kill: (run, caller) => runs.kill(run, caller),
    resume: (run, caller) => runs.resume(run, caller),
    reload: (request, caller) => runs.reload(request, caller),
    approvals: (options) => runs.approvals(options),
    approve: (id, options, caller) => runs.approve(id, options, caller),
    deny: (id, options, caller) => runs.deny(id, options, caller),
    logs: (run, options, signal) => runs.logs(run, options, signal),
    events: (options, signal) => runs.events(options, signal),
    incidents: () => runs.incidents(),
    incident: (id) => runs.incident(id),
    why: (reference) => runs.why(reference),
    release: (profile, caller) => runs.release(profile, caller),
    doctor: () => host.doctor(),
    gc: (caller) => host.gc(caller),
    checkpoint: (caller) => host.checkpoint(caller),
    rotateKey: (caller) => host.rotateKey(caller),
    alerts: () => host.alerts(),
    testAlert: (sink, caller) => host.testAlert(sink, caller),
    retryAlerts: (which, caller) => host.retryAlerts(which, caller),
    metrics: () => host.metrics(),
  };
}
