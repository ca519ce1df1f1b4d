/** The return codes of NVIDIA's management library that mean something to a supervisor, and all the others in words. */
export const NVML = {
  ok: 0,
  notSupported: 3,
  noPermission: 4,
  notFound: 6,
  tooSmall: 7,
  driverNotLoaded: 9,
  functionMissing: 13,
  lost: 15,
} as const;

const WORDS: Readonly<Record<number, string>> = {
  1: 'the library was not initialized',
  2: 'an argument is not valid',
  3: 'the device does not support it',
  4: 'the driver does not permit it to this user',
  6: 'nothing was found',
  7: 'the buffer is too small',
  8: 'a power cable of the device is not connected',
  9: 'the NVIDIA driver is not loaded',
  10: 'the driver timed out',
  11: 'the kernel has trouble with an interrupt of the device',
  12: 'the driver has no library',
  13: 'the library has no such function',
  14: 'the info ROM of the device is damaged',
  15: 'the device is lost: it has fallen off the bus',
  16: 'the device needs a reset',
  17: 'the operating system keeps the device from this process',
  18: 'driver and library are of different versions; the host needs a restart after its driver was updated',
  19: 'the device is in use',
  20: 'the host has not enough memory',
  21: 'there is no data',
  23: 'the driver has run out of a resource',
  24: 'the driver has run out of a resource',
  25: 'the library does not know this version of a structure',
  26: 'the function is not there any more',
  27: 'the driver is not ready',
  28: 'the host has no GPU',
  29: 'the device is not in a state for this',
  30: 'the device cannot be reset this way',
  999: 'the driver reports an error of its own',
};

/** `15: the device is lost`: one sentence for each code that the library can give. */
export function nvmlWords(code: number): string {
  return WORDS[code] ?? `the library reports ${code}, which this version does not know`;
}
