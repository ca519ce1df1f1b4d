import { expect, test } from 'vitest';
import { renderMetrics } from './prometheus.ts';

test('a gauge, a counter and a histogram are what a scraper reads', () => {
  const text = renderMetrics([
    { name: 'a_seconds', help: 'How long.', type: 'gauge', samples: [{ labels: { agent: 'rome' }, value: 1.5 }] },
    { name: 'b_total', help: 'How many.', type: 'counter', samples: [{ labels: {}, value: 3 }] },
    {
      name: 'c_seconds',
      help: 'How fast.',
      type: 'histogram',
      histograms: [{ labels: {}, buckets: [{ atMost: 0.01, count: 2 }], sum: 0.5, count: 3 }],
    },
  ]);
  expect(text).toBe(
    [
      '# HELP a_seconds How long.',
      '# TYPE a_seconds gauge',
      'a_seconds{agent="rome"} 1.5',
      '# HELP b_total How many.',
      '# TYPE b_total counter',
      'b_total 3',
      '# HELP c_seconds How fast.',
      '# TYPE c_seconds histogram',
      'c_seconds_bucket{le="0.01"} 2',
      'c_seconds_bucket{le="+Inf"} 3',
      'c_seconds_sum 0.5',
      'c_seconds_count 3',
      '',
    ].join('\n'),
  );
});

test('a label cannot end its line or its quotes', () => {
  const samples = [{ labels: { agent: 'a"\\\nb_total 9' }, value: 1 }];
  const text = renderMetrics([{ name: 'a', help: 'x\ny', type: 'gauge', samples }]);
  expect(text.split('\n')).toHaveLength(4);
  expect(text).toContain(String.raw`a{agent="a\"\\\nb_total 9"} 1`);
});

test('a family without samples is not there', () => {
  expect(renderMetrics([{ name: 'a', help: 'x', type: 'gauge', samples: [] }])).toBe('');
});
