/** Curves over the steps as SVG: hover for values, drag to zoom, double-click for all. */
import React from 'react';
import { __ } from './base';
import { nearest, scale, shown, ticks, tickTexts } from './logic';
import { Curves as Lines } from './types';

const LEFT = 52;
const RIGHT = 12;
const TOP = 8;
const BOTTOM = 24;

export const COLOURS = [
  '#4c8eda',
  '#c8781f',
  '#3fa45b',
  '#b565c9',
  '#d9534f',
  '#2aa5a0',
  '#a0832c',
  '#7d7fd6'
];

export interface IDrawn {
  name: string;
  colour: string;
  points: [number, number][];
}

/** The width of an element, as it changes. */
function useWidth(): [React.RefObject<HTMLDivElement>, number] {
  const ref = React.useRef<HTMLDivElement>(null);
  const [width, setWidth] = React.useState(480);
  React.useEffect(() => {
    const observer = new ResizeObserver(entries => setWidth(Math.max(200, entries[0].contentRect.width)));
    if (ref.current) {
      observer.observe(ref.current);
    }
    return () => observer.disconnect();
  }, []);
  return [ref, width];
}

export function Chart(props: { lines: IDrawn[]; label: string; height?: number }): JSX.Element | null {
  const [ref, width] = useWidth();
  const height = props.height ?? 180;
  const [range, setRange] = React.useState<[number, number] | null>(null);
  const [hover, setHover] = React.useState<number | null>(null);
  const [from, setFrom] = React.useState<number | null>(null);
  const curves: Lines = Object.fromEntries(props.lines.map((l, i) => [`${i}`, l.points]));
  const plot = scale(curves, width - LEFT - RIGHT, height - TOP - BOTTOM, range);
  if (!plot) {
    return <div ref={ref} />;
  }
  const ys = ticks(plot.ys);
  const labels = tickTexts(ys);
  const place = (x: number, y: number): [number, number] => {
    const [a, b] = plot.at(x, y);
    return [LEFT + a, TOP + b];
  };
  const within = ([x]: [number, number]) => x >= plot.xs[0] && x <= plot.xs[1];
  const step = (event: React.PointerEvent<SVGSVGElement>): number => {
    const box = event.currentTarget.getBoundingClientRect();
    const share = (event.clientX - box.left - LEFT) / (width - LEFT - RIGHT);
    return plot.xs[0] + Math.min(1, Math.max(0, share)) * (plot.xs[1] - plot.xs[0]);
  };
  const done = (event: React.PointerEvent<SVGSVGElement>) => {
    const to = step(event);
    if (from !== null && Math.abs(to - from) > 0.02 * (plot.xs[1] - plot.xs[0])) {
      setRange([Math.min(from, to), Math.max(from, to)]);
    }
    setFrom(null);
  };
  const told = props.lines.map(l => ({
    ...l,
    point: hover === null ? (l.points[l.points.length - 1] ?? null) : nearest(l.points.filter(within), hover)
  }));
  const x0 = hover === null ? 0 : place(hover, plot.ys[0])[0];
  const summary = props.lines
    .map(l => `${l.name} ${shown(l.points[0]?.[1])} → ${shown(l.points[l.points.length - 1]?.[1])}`)
    .join('; ');
  return (
    <figure className="bsft-chart" ref={ref}>
      <figcaption>
        {told.map(l => (
          <span key={l.name} className="bsft-key">
            <i style={{ background: l.colour }} />
            <bdi>{l.name}</bdi> <b>{shown(l.point?.[1])}</b>
          </span>
        ))}
        <span className="bsft-quiet">
          {hover === null ? __('last') : `${__('step')} ${shown(told.find(l => l.point)?.point?.[0])}`}
        </span>
        {range ? (
          <button type="button" className="bsft-button bsft-plain" onClick={() => setRange(null)}>
            {__('Show all')}
          </button>
        ) : null}
      </figcaption>
      <svg
        role="img"
        aria-label={`${props.label}: ${summary}`}
        width={width}
        height={height}
        onPointerMove={event => setHover(step(event))}
        onPointerLeave={() => (setHover(null), setFrom(null))}
        onPointerDown={event => setFrom(step(event))}
        onPointerUp={done}
        onDoubleClick={() => setRange(null)}
      >
        {ys.map((y, i) => (
          <g key={`y${y}`}>
            <line
              className="bsft-grid"
              x1={LEFT}
              x2={width - RIGHT}
              y1={place(plot.xs[0], y)[1]}
              y2={place(plot.xs[0], y)[1]}
            />
            <text x={LEFT - 6} y={place(plot.xs[0], y)[1] + 4} textAnchor="end">
              {labels[i]}
            </text>
          </g>
        ))}
        {ticks(plot.xs, Math.max(2, Math.floor(width / 120)))
          .filter(Number.isInteger)
          .map(x => (
            <text key={`x${x}`} x={place(x, plot.ys[0])[0]} y={height - 6} textAnchor="middle">
              {shown(x)}
            </text>
          ))}
        {from !== null && hover !== null ? (
          <rect
            className="bsft-zoom"
            x={Math.min(place(from, 0)[0], x0)}
            width={Math.abs(place(from, 0)[0] - x0)}
            y={TOP}
            height={height - TOP - BOTTOM}
          />
        ) : null}
        {props.lines.map(l => {
          const points = l.points.filter(within).filter(p => Number.isFinite(p[1]));
          return (
            <g key={l.name} stroke={l.colour} fill={l.colour}>
              <polyline
                fill="none"
                strokeWidth={points.length > 60 ? 1.4 : 2}
                points={points
                  .map(p =>
                    place(...p)
                      .map(v => v.toFixed(1))
                      .join()
                  )
                  .join(' ')}
              />
              {points.length <= 30
                ? points.map(p => (
                    <circle key={p[0]} r={2.5} cx={place(...p)[0]} cy={place(...p)[1]} stroke="none" />
                  ))
                : null}
            </g>
          );
        })}
        {hover === null ? null : (
          <line className="bsft-cursor" x1={x0} x2={x0} y1={TOP} y2={height - BOTTOM} />
        )}
      </svg>
    </figure>
  );
}

const NAMES: { [name: string]: [string, string] } = {
  loss: ['training loss', COLOURS[0]],
  eval_loss: ['held-out loss', COLOURS[1]],
  score: ['score of checkpoints', COLOURS[2]]
};

/** Losses and scores of one model. */
export function ModelCurves(props: { model: string; curves: Lines; named: boolean }): JSX.Element {
  const drawn = (names: string[]): IDrawn[] =>
    names
      .filter(n => props.curves[n]?.length)
      .map(n => ({ name: __(NAMES[n][0]), colour: NAMES[n][1], points: props.curves[n] }));
  const [losses, scores] = [drawn(['loss', 'eval_loss']), drawn(['score'])];
  return (
    <section className="bsft-model">
      {props.named ? <h4>{props.model}</h4> : null}
      {losses.length ? <Chart lines={losses} label={__('Losses of %1', props.model)} /> : null}
      {scores.length ? <Chart lines={scores} label={__('Scores of %1', props.model)} height={120} /> : null}
    </section>
  );
}
