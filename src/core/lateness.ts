/**
 * Calls back when nobody cancelled it in time. A process that was kept from working finds its time over before it has
 * read what came meanwhile: that is read first, in the turn that this leaves.
 */
export function whenLate(msMax: number, onLate: () => void): { cancel(): void } {
  let turn: NodeJS.Immediate | undefined;
  const timer = setTimeout(() => {
    turn = setImmediate(onLate);
  }, msMax);
  return {
    cancel: () => {
      clearTimeout(timer);
      clearImmediate(turn);
    },
  };
}
