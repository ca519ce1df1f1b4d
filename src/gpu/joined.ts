import type { Gpus, GpuView } from '../core/ports/gpu.ts';

/**
 * Several sources as one. Each has a process of its own, so that a driver that hangs takes only its own cards out of
 * sight; what one tells is never passed off as news of another's.
 */
export function joinGpus(sources: readonly Gpus[]): Gpus {
  const problems = (): readonly string[] => sources.flatMap((source) => source.problem() ?? []);
  return {
    latest: () => {
      const views = sources.map((source) => source.latest()).filter((view): view is GpuView => view !== null);
      if (views.length === 0) return null;
      return { versions: views.flatMap((view) => view.versions), devices: views.flatMap((view) => view.devices) };
    },
    problem: () => (problems().length === 0 ? null : problems().join('; ')),
    setPace: (pace) => {
      for (const source of sources) source.setPace(pace);
    },
    close: async () => {
      await Promise.all(sources.map((source) => source.close()));
    },
  };
}
