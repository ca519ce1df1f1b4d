import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { startJournal } from '../../../test/support/journal-receiver.ts';
import { alertOf, HOSTILE, hostileAlert, withDirectory } from '../testing.ts';
import { openJournald } from './journald.ts';

const never = new AbortController().signal;

describe('the journal', () => {
  test('gets an alert as fields that it can be searched by', async () => {
    await withDirectory(async (directory) => {
      const socketPath = join(directory, 'socket');
      using journal = startJournal(socketPath);
      const sink = openJournald({ type: 'journald', socketPath });
      const alert = alertOf('i0123456789ab', { body: '{\n  "type": "incident.opened"\n}' });
      expect(await sink.send(alert, never)).toEqual({ kind: 'delivered', status: 0 });
      expect(journal.take().map((fields) => Object.fromEntries(fields))).toEqual([
        {
          MESSAGE: 'rome tried to reach 203.0.113.10:22/tcp and was killed.',
          MESSAGE_ID: expect.stringMatching(/^[0-9a-f]{32}$/),
          PRIORITY: '3',
          SYSLOG_IDENTIFIER: 'ringfenced',
          RINGFENCE_ALERT_ID: 'i0123456789ab',
          RINGFENCE_TYPE: 'incident.opened',
          RINGFENCE_PROFILE: 'rome',
          RINGFENCE_SEVERITY: 'high',
          RINGFENCE_KEY: 'i0123456789ab',
          RINGFENCE_BODY: '{\n  "type": "incident.opened"\n}',
        },
      ]);
    });
  });

  for (const [title, text] of HOSTILE) {
    test(`makes no field of ${title}`, async () => {
      await withDirectory(async (directory) => {
        const socketPath = join(directory, 'socket');
        using journal = startJournal(socketPath);
        const alert = { ...hostileAlert(text), body: text };
        expect((await openJournald({ type: 'journald', socketPath }).send(alert, never)).kind).toBe('delivered');
        const [fields] = journal.take();
        expect(fields?.size).toBe(10);
        expect(fields?.get('MESSAGE')?.length).toBeLessThanOrEqual(1_000);
        if (Buffer.byteLength(text) < 1_000) expect(fields?.get('RINGFENCE_BODY')).toBe(text.toWellFormed());
        else expect(fields?.get('RINGFENCE_BODY_BYTES')).toBe(String(Buffer.byteLength(text)));
      });
    });
  }

  test('that is not there, or takes nothing now, is tried again', async () => {
    await withDirectory(async (directory) => {
      const socketPath = join(directory, 'socket');
      const sink = openJournald({ type: 'journald', socketPath });
      expect(await sink.send(alertOf('a1'), never)).toEqual({
        kind: 'failed',
        message: `${socketPath}: connect: ENOENT`,
        retryAfterMs: null,
      });
      using journal = startJournal(socketPath);
      const kinds = new Set<string>();
      // The kernel holds only so many datagrams for a reader that does not read.
      for (let sent = 0; sent < 2_000 && !kinds.has('failed'); sent += 1)
        kinds.add((await sink.send(alertOf('a1'), never)).kind);
      expect([...kinds]).toEqual(['delivered', 'failed']);
      expect(journal.take().length).toBeGreaterThan(0);
      expect((await sink.send(alertOf('a1'), never)).kind).toBe('delivered');
    });
  });
});
