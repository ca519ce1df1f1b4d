import { writeFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';

import { apiReference } from '../src/api/reference.ts';

/** Writes docs/api.md; a test fails when it was not run after a change of the contract. */
await writeFile(fileURLToPath(new URL('../docs/api.md', import.meta.url)), apiReference());
