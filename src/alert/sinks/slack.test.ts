import { describe, expect, test } from 'vitest';
import { startSlack } from '../../../test/support/slack-receiver.ts';
import type { Alert } from '../../core/ports/alert.ts';
import type { Delivery } from '../deliverer.ts';
import { alertOf, HOSTILE, hostileAlert } from '../testing.ts';
import { openSlack } from './slack.ts';

const never = new AbortController().signal;

async function send(url: string, alert: Alert): Promise<Delivery> {
  return await openSlack({ type: 'slack', url, allowPrivate: true }, { nowMs: Date.now }).send(alert, never);
}

describe('a Slack incoming webhook', () => {
  test('gets a message that Slack takes, with everything a reader needs', async () => {
    await using slack = await startSlack();
    expect(await send(slack.url, alertOf('i0123456789ab'))).toEqual({ kind: 'delivered', status: 200 });
    const summary = 'rome tried to reach 203.0.113.10:22/tcp and was killed.';
    expect(slack.requests.map(({ json }) => json)).toEqual([
      {
        text: `Incident: ${summary}`,
        mrkdwn: false,
        parse: 'none',
        link_names: false,
        unfurl_links: false,
        unfurl_media: false,
        blocks: [
          { type: 'section', text: { type: 'mrkdwn', text: ':red_circle: HIGH *Incident*', verbatim: true } },
          { type: 'section', text: { type: 'plain_text', text: summary, emoji: false } },
          { type: 'section', text: { type: 'mrkdwn', text: '*rule* `budget.denials`', verbatim: true } },
          {
            type: 'context',
            elements: [
              {
                type: 'mrkdwn',
                text: 'incident.opened · i0123456789ab · 2026-10-05T08:00:00.000Z',
                verbatim: true,
              },
            ],
          },
        ],
      },
    ]);
  });

  for (const [title, text] of HOSTILE) {
    test(`makes nothing of ${title}`, async () => {
      await using slack = await startSlack();
      expect(await send(slack.url, hostileAlert(text))).toEqual({ kind: 'delivered', status: 200 });
      expect(slack.requests[0]?.bytes).toBeLessThan(40_000);
      const shown = JSON.stringify(slack.requests[0]?.json);
      expect(shown).not.toMatch(/<!|<@|<http|\\u001b|\\n(?:MESSAGE|third)/);
    });
  }

  test('keeps a backtick of an agent inside the code span', async () => {
    await using slack = await startSlack();
    await send(slack.url, alertOf('a1', { facts: [{ name: 'why', value: 'x` *loud* `y' }] }));
    expect(JSON.stringify(slack.requests[0]?.json)).toContain('`xˋ *loud* ˋy`');
  });

  test('refused for good when Slack cannot read it, tried again when the webhook may be repaired', async () => {
    await using slack = await startSlack();
    slack.answerNext({ status: 400, body: 'invalid_blocks' });
    expect(await send(slack.url, alertOf('a1'))).toEqual({
      kind: 'rejected',
      message: 'answered 400: invalid_blocks',
    });
    expect(await send(`http://127.0.0.1:${slack.port}/services/none`, alertOf('a1'))).toMatchObject({
      kind: 'failed',
      message: 'answered 404: no_service',
    });
    slack.answerNext({ status: 429, body: 'rate_limited', headers: { 'retry-after': '30' } });
    expect(await send(slack.url, alertOf('a1'))).toMatchObject({ kind: 'failed', retryAfterMs: 30_000 });
    slack.answerNext({ status: 410, body: 'channel_is_archived' });
    expect((await send(slack.url, alertOf('a1'))).kind).toBe('gone');
  });

  test('never shows the path of its URL, which is the secret', async () => {
    await using slack = await startSlack();
    const path = new URL(slack.url).pathname;
    slack.answerNext(
      { status: 302, body: '', headers: { location: `https://elsewhere.example${path}` } },
      { status: 500, body: `no route to ${path}` },
    );
    for (const expected of [/a redirect to https:\/\/elsewhere\.example\*\*\* is not followed/, /no route to \*\*\*/]) {
      const delivery = await send(slack.url, alertOf('a1'));
      expect(delivery).toMatchObject({ kind: 'failed', message: expect.stringMatching(expected) });
    }
  });
});

test('the receiver of these tests refuses what Slack refuses', async () => {
  await using slack = await startSlack();
  const post = async (body: unknown): Promise<number> => {
    const headers = { 'content-type': 'application/json' };
    return (await fetch(slack.url, { method: 'POST', headers, body: JSON.stringify(body) })).status;
  };
  const section = { type: 'section', text: { type: 'mrkdwn', text: 'hello' } };
  expect(await post({ text: 'hello', blocks: [section] })).toBe(200);
  expect(await post({ text: 'hello <!channel>', blocks: [section] })).toBe(400);
  expect(await post({ text: 'hello', blocks: Array.from({ length: 51 }, () => section) })).toBe(400);
  const long = { type: 'section', text: { type: 'mrkdwn', text: 'x'.repeat(3_001) } };
  expect(await post({ text: 'hello', blocks: [long] })).toBe(400);
});
