import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
  age,
  arranged,
  happened,
  matches,
  nearest,
  ranged,
  scale,
  shown,
  ticks,
  tickTexts,
  visible
} from '../lib/logic.js';

const card = (id, more = {}) => ({
  key: id,
  id,
  status: 'finished',
  program: 'Triage',
  target: 'base',
  where: `.bsft/runs/${id}`,
  error: '',
  began: 0,
  seconds: 0,
  scores: {},
  live: null,
  ...more
});

test('every word of a search has to be there', () => {
  assert.ok(matches(card('triage-1'), 'TRIAGE base'));
  assert.ok(!matches(card('triage-1'), 'triage flan'));
  assert.ok(matches(card('triage-1'), ''));
});

test('runs under way stand apart, others in the order asked for', () => {
  const cards = [
    card('a', { began: 1, scores: { tuned: { score: 0.5, said: '0.5' } } }),
    card('b', { began: 2, seconds: 9 }),
    card('c', { began: 3, scores: { tuned: { score: 0, said: '0' } } }),
    card('d', { status: 'running' })
  ];
  const ids = order =>
    arranged(cards, '', 'all', order)
      .ended.map(c => c.id)
      .join('');
  assert.equal(ids('newest'), 'cba');
  assert.equal(ids('score'), 'acb');
  assert.equal(ids('duration'), 'bca');
  assert.equal(ids('name'), 'abc');
  assert.deepEqual(
    arranged(cards, '', 'all', 'newest').live.map(c => c.id),
    ['d']
  );
  assert.equal(arranged(cards, '', 'failed', 'newest').ended.length, 0);
});

test('an age is one number and one unit', () => {
  assert.deepEqual(
    [5, 65, 7200, 100000, 1e6, 1e9].map(s => age(0, s)),
    ['now', '1 min', '2 h', '1 d', '1 w', '31 y']
  );
  assert.equal(age(null, 5), '');
  assert.equal(age(10, 5), 'now');
});

test('numbers have three digits that count', () => {
  assert.deepEqual([0.123456, 12345.6, 3, null, NaN, 0.00001234].map(shown), [
    '0.123',
    '12,346',
    '3',
    '–',
    '–',
    '0.0000123'
  ]);
});

test('a curve of one value, or of values that are none, is drawn all the same', () => {
  assert.equal(scale({ loss: [] }, 100, 50, null), null);
  assert.deepEqual(scale({ loss: [[3, 2]] }, 100, 50, null).at(3, 2), [50, 25]);
  const plot = scale(
    {
      loss: [
        [0, 1],
        [10, 3],
        [5, NaN]
      ]
    },
    100,
    50,
    null
  );
  assert.deepEqual(
    [plot.at(0, 1), plot.at(10, 3)],
    [
      [0, 50],
      [100, 0]
    ]
  );
  assert.deepEqual(
    scale(
      {
        loss: [
          [0, 1],
          [10, 3]
        ]
      },
      100,
      50,
      [5, 10]
    ).ys,
    [2.5, 3.5]
  );
});

test('ticks are round and within', () => {
  assert.deepEqual(ticks([0, 1]), [0, 0.5, 1]);
  assert.deepEqual(ticks([0.7, 12.3]), [5, 10]);
  assert.deepEqual(ticks([2, 2]), [2]);
});

test('the nearest point', () => {
  assert.deepEqual(
    nearest(
      [
        [0, 1],
        [10, 3]
      ],
      6
    ),
    [10, 3]
  );
  assert.equal(nearest([], 6), null);
});

test('characters that steer a screen are seen', () => {
  assert.equal(visible('user\u202egnp.exe \x1b[31m\nnext'), 'user\ufffdgnp.exe \ufffd[31m\nnext');
});

test('only the end of a run that was seen running is told', () => {
  assert.equal(happened(undefined, card('a')), null);
  assert.equal(happened(card('a'), card('a')), null);
  assert.equal(happened(card('a', { status: 'running' }), card('a')), 'ended');
  assert.equal(happened(card('a', { status: 'running' }), card('a', { status: 'died' })), 'failed');
  assert.equal(happened(card('a', { status: 'running' }), card('a', { status: 'stopped' })), 'stopped');
});

test('ticks that are close have the digits that tell them apart', () => {
  assert.deepEqual(tickTexts([5.61, 5.615, 5.62]), ['5.610', '5.615', '5.620']);
  assert.deepEqual(tickTexts([0, 500, 1000]), ['0', '500', '1,000']);
  assert.deepEqual(tickTexts([2]), ['2']);
});

test('an interval is shown where it says something', () => {
  assert.equal(ranged([0.25, 0.5]), '(0.25–0.5)');
  assert.equal(ranged([1, 1]) + ranged(null) + ranged(undefined), '');
});
