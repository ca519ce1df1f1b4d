import { readFile } from 'node:fs/promises';
import { expect, test } from 'vitest';
import { ERRORS } from '../core/errors.ts';
import { withErrorsTable } from './errors-page.ts';

const page = await readFile(new URL('../../docs/errors.md', import.meta.url), 'utf8');

test('docs/errors.md has each error of the catalogue as it is; `npm run generate` writes it', () => {
  expect(withErrorsTable(page)).toBe(page);
});

test('a page without its marks, or with another table, is noticed', () => {
  expect(withErrorsTable('no marks')).toBeNull();
  expect(withErrorsTable(page.replace('PROFILE_INVALID', 'PROFILE_WRONG'))).not.toBe(
    page.replace('PROFILE_INVALID', 'PROFILE_WRONG'),
  );
});

test('every hint names something to do, and every message is one sentence without a full stop', () => {
  const wrong = Object.entries(ERRORS).filter(
    ([, { message, hint }]) => !/^[a-z].*[^.]$/.test(message) || hint.length < 10,
  );
  expect(wrong).toEqual([]);
});
