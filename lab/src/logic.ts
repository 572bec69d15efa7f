/** What needs no browser: tested with node alone. */
import { Curves, ICard, Points, Status } from './types';

export type Order = 'newest' | 'score' | 'duration' | 'name';

/** Does every word of `search` stand in a card's id, program, target, folder or error? */
export function matches(card: ICard, search: string): boolean {
  const text = [card.id, card.program, card.target, card.where, card.status, card.error]
    .join(' ')
    .toLowerCase();
  return search
    .toLowerCase()
    .split(/\s+/)
    .every(word => text.includes(word));
}

const TUNED = (card: ICard): number => card.scores.tuned?.score ?? -Infinity;
const ORDERS: { [order in Order]: (a: ICard, b: ICard) => number } = {
  newest: (a, b) => (b.began ?? 0) - (a.began ?? 0),
  score: (a, b) => TUNED(b) - TUNED(a) || ORDERS.newest(a, b),
  duration: (a, b) => b.seconds - a.seconds || ORDERS.newest(a, b),
  name: (a, b) => a.id.localeCompare(b.id)
};

/** The cards to be shown: under way, and the others in order. */
export function arranged(
  cards: Iterable<ICard>,
  search: string,
  state: Status | 'all',
  order: Order
): { live: ICard[]; ended: ICard[] } {
  const found = [...cards].filter(c => matches(c, search) && (state === 'all' || c.status === state));
  const sort = (list: ICard[], by: Order) =>
    list.sort((a, b) => ORDERS[by](a, b) || a.key.localeCompare(b.key));
  return {
    live: sort(
      found.filter(c => c.status === 'running'),
      'newest'
    ),
    ended: sort(
      found.filter(c => c.status !== 'running'),
      order
    )
  };
}

/** How long ago, in one unit: `now`, `5 min`, `3 h`, `2 d`. */
export function age(began: number | null, now: number): string {
  if (began === null) {
    return '';
  }
  const seconds = Math.max(0, now - began);
  const units: [number, string][] = [
    [86400 * 365, 'y'],
    [86400 * 7, 'w'],
    [86400, 'd'],
    [3600, 'h'],
    [60, 'min']
  ];
  const unit = units.find(([size]) => seconds >= size);
  return unit ? `${Math.floor(seconds / unit[0])} ${unit[1]}` : 'now';
}

/** A number with three significant digits; whole numbers whole. */
export function shown(value: number | null | undefined): string {
  if (value === null || value === undefined || !Number.isFinite(value)) {
    return '–';
  }
  return Number.isInteger(value) || Math.abs(value) >= 100
    ? Math.round(value).toLocaleString('en')
    : String(Number(value.toPrecision(3)));
}

/** A 95% interval, or nothing where it is not known or has no width. */
export function ranged(interval: [number, number] | null | undefined): string {
  return interval && interval[0] < interval[1] ? `(${shown(interval[0])}–${shown(interval[1])})` : '';
}

export interface IScale {
  at: (x: number, y: number) => [number, number];
  xs: [number, number];
  ys: [number, number];
}

/** Where points are drawn, within `range` of x (all where it is null). */
export function scale(
  curves: Curves,
  width: number,
  height: number,
  range: [number, number] | null
): IScale | null {
  const points = Object.values(curves)
    .flat()
    .filter(([x, y]) => Number.isFinite(y) && (!range || (x >= range[0] && x <= range[1])));
  if (!points.length) {
    return null;
  }
  const ends = (values: number[]): [number, number] =>
    values.reduce(([low, high], v) => [Math.min(low, v), Math.max(high, v)], [Infinity, -Infinity]);
  const xs = range ?? ends(points.map(p => p[0]));
  const [low, high] = ends(points.map(p => p[1]));
  const ys: [number, number] = low === high ? [low - 0.5, high + 0.5] : [low, high];
  const at = (x: number, y: number): [number, number] => [
    xs[0] === xs[1] ? width / 2 : ((x - xs[0]) / (xs[1] - xs[0])) * width,
    height - ((y - ys[0]) / (ys[1] - ys[0])) * height
  ];
  return { at, xs, ys };
}

/** Round values within a range, for an axis. */
export function ticks([low, high]: [number, number], about = 4): number[] {
  const rough = (high - low) / about;
  if (!(rough > 0)) {
    return [low];
  }
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map(m => m * power).find(s => s >= rough) ?? rough;
  const first = Math.ceil(low / step - 1e-9);
  return Array.from({ length: Math.floor(high / step + 1e-9) - first + 1 }, (_, i) =>
    Number(((first + i) * step).toPrecision(12))
  );
}

/** Ticks as texts, with as many digits as tell them apart. */
export function tickTexts(values: number[]): string[] {
  const step = values.length > 1 ? values[1] - values[0] : 0;
  const digits = step > 0 ? Math.min(8, Math.max(0, -Math.floor(Math.log10(step) + 1e-9))) : 0;
  return values.map(v =>
    step > 0 && Math.abs(v) < 1e15
      ? v.toLocaleString('en', { minimumFractionDigits: digits, maximumFractionDigits: digits })
      : shown(v)
  );
}

/** The point of a curve that is nearest to `x`. */
export function nearest(points: Points, x: number): [number, number] | null {
  return points.reduce<[number, number] | null>(
    (best, p) => (best === null || Math.abs(p[0] - x) < Math.abs(best[0] - x) ? p : best),
    null
  );
}

/** How a value reads: texts as they are, others as JSON. */
export function text(value: unknown): string {
  return typeof value === 'string' ? value : value === undefined ? '' : JSON.stringify(value);
}

/** Makes characters visible that would change how the text around them reads. */
export function visible(value: string): string {
  return value.replace(
    /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff]/g,
    '\ufffd'
  );
}

/** What is worth telling about a card that was another before. */
export function happened(before: ICard | undefined, after: ICard): 'ended' | 'stopped' | 'failed' | null {
  if (before?.status !== 'running' || after.status === 'running') {
    return null;
  }
  const ends: { [status: string]: 'stopped' | 'failed' } = {
    stopped: 'stopped',
    failed: 'failed',
    died: 'failed'
  };
  return ends[after.status] ?? 'ended';
}
