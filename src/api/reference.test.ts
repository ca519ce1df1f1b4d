import { readFile } from 'node:fs/promises';
import { describe, expect, it } from 'vitest';

import { FILE_BYTES_MAX } from '../profile/document.ts';
import { PROFILE_BYTES_MAX } from './endpoints.ts';
import { apiReference } from './reference.ts';

describe('the reference of the API', () => {
  it('is what the contract says (else: node scripts/generate-api.ts)', async () => {
    expect(await readFile(new URL('../../docs/api.md', import.meta.url), 'utf8')).toBe(apiReference());
  });

  it('lets through exactly the profiles that the parser takes', () => {
    expect(PROFILE_BYTES_MAX).toBe(FILE_BYTES_MAX);
  });
});
