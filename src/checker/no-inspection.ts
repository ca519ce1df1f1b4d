import type { Inspector } from './inspect/port.ts';

/** Refuses what should be inspected, while nothing can: a connection that nobody looks into does not pass as one. */
export function createNoInspector(): Inspector {
  return {
    authority: async () => await Promise.reject(new Error('this version inspects nothing')),
    forget: () => undefined,
    inspect: async (connection) => {
      connection.deny('check.protocol', 'the rule asks for inspection, which this version does not have');
      connection.client.destroy();
      await Promise.resolve();
    },
  };
}
