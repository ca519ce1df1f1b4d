import { readFileSync, writeFileSync } from 'node:fs';
import { referenceTable, withTable } from '../src/profile/reference.ts';
import { profileJsonSchema } from '../src/profile/schema.ts';
import { withErrorsTable } from '../src/report/errors-page.ts';

// Writes what is derived from the schema of the profile and the catalogue of errors. A test fails when the files differ from what this writes.
const root = new URL('../', import.meta.url);
const schema = profileJsonSchema();

writeFileSync(new URL('profiles/profile.schema.json', root), `${JSON.stringify(schema, null, 2)}\n`);

const pageFile = new URL('docs/profile.md', root);
const page = withTable(readFileSync(pageFile, 'utf8'), referenceTable(schema));
if (page === null) throw new Error('docs/profile.md has no marks around the generated table');
writeFileSync(pageFile, page);

const errorsFile = new URL('docs/errors.md', root);
const errorsPage = withErrorsTable(readFileSync(errorsFile, 'utf8'));
if (errorsPage === null) throw new Error('docs/errors.md has no marks around the generated table');
writeFileSync(errorsFile, errorsPage);
