import { readFile } from 'node:fs/promises';
import { describe, expect, it } from 'vitest';

import { parseProfile } from '../profile/parse.ts';
import { PROFILE_BYTES_MAX } from './endpoints.ts';
import { apiReference } from './reference.ts';

describe('the reference of the API', () => {
  it('is what the contract says (else: node scripts/generate-api.ts)', async () => {
    expect(await readFile(new URL('../../docs/api.md', import.meta.url), 'utf8')).toBe(apiReference());
  });

  it('lets through exactly the profiles that the parser takes', () => {
    const tooLarge = (bytes: number) => {
      const parsed = parseProfile({ file: 'a.yaml', bytes: Buffer.alloc(bytes, '#') });
      return parsed.ok ? [] : parsed.problems.filter(({ message }) => message.startsWith('must be at most'));
    };
    expect([tooLarge(PROFILE_BYTES_MAX), tooLarge(PROFILE_BYTES_MAX + 1)]).toEqual([[], [expect.anything()]]);
  });
});
