import { defineConfig } from 'vitest/config';

// `unit` runs anywhere in seconds; `lab` needs root and runs inside the lab's host namespace, one file at a time,
// because its files share one container engine and one packet filter.
export default defineConfig({
  test: {
    projects: [
      { test: { name: 'unit', include: ['src/**/*.test.ts', 'test/unit/**/*.test.ts'], testTimeout: 20_000 } },
      {
        test: {
          name: 'lab',
          include: ['test/lab/**/*.test.ts'],
          fileParallelism: false,
          // Real processes with real clocks: what a stalled machine spoils is tried once more, and the report says so.
          retry: 1,
          testTimeout: 60_000,
          hookTimeout: 120_000,
        },
      },
    ],
  },
});
