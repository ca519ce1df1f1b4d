/** For our own bugs, never for user input: a failed assertion means the program is wrong, not the profile. */
export function assert(condition: unknown, message: string): asserts condition {
  if (!condition) throw new Error(`assertion failed: ${message}`);
}

/** Closes a switch over a union, so that a new member is a compile error and a foreign value a loud one. */
export function assertNever(value: never): never {
  throw new Error(`assertion failed: unexpected value ${JSON.stringify(value)}`);
}
