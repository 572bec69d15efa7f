/** Teacher, tuned and untuned student side by side. */
import React from 'react';
import { __, Choice, Empty, Fields, Problem, Said, shared, useAnswer } from './base';
import { Calls } from './data';
import { shown } from './logic';
import { ITable, Table } from './table';
import { IAnswer, ICompare, IRow, ISlice } from './types';

const PIECES: { [kind: string]: 'del' | 'ins' | 'span' } = {
  '-': 'del',
  '+': 'ins',
  '=': 'span',
  ' ': 'span'
};

function Diff(props: { pieces: [string, string][] }): JSX.Element {
  return (
    <bdi className="bsft-said">
      {props.pieces.map(([kind, said], i) =>
        React.createElement(PIECES[kind] ?? 'span', { key: i }, <Said value={said} />)
      )}
    </bdi>
  );
}

function Answer(props: { answer: IAnswer | null }): JSX.Element {
  const { answer } = props;
  if (!answer) {
    return <span className="bsft-quiet">{__('no answer')}</span>;
  }
  const mark = answer.right === null ? '' : answer.right ? '✓' : '✗';
  const cost = answer.cost ? `$${shown(answer.cost)}` : '';
  const took = answer.cached ? __('cached') : answer.latency === null ? '' : `${shown(answer.latency)} s`;
  return (
    <>
      <dl className="bsft-fields">
        {Object.entries(answer.outputs).map(([name, value]) => (
          <div key={name}>
            <dt>
              <Said value={name} />
            </dt>
            <dd>{answer.diff[name] ? <Diff pieces={answer.diff[name]} /> : <Said value={value} />}</dd>
          </div>
        ))}
      </dl>
      {answer.error ? <Said className="bsft-bad" value={answer.error} /> : null}
      <div className="bsft-quiet">
        <b data-right={String(answer.right)}>
          {mark} {answer.score === null ? __('not scored') : shown(answer.score)}
        </b>
        {[took, answer.tokens === null ? '' : `${shown(answer.tokens)} ${__('tokens')}`, cost]
          .filter(Boolean)
          .map(s => ` · ${s}`)}
      </div>
    </>
  );
}

function RowFull(props: { runKey: string; row: number; columns: string[] }): JSX.Element {
  const { data, error } = useAnswer(
    signal => shared.runs.api.run<IRow>(props.runKey, ['compare', String(props.row)], {}, signal),
    [props.runKey, props.row]
  );
  if (!data) {
    return error ? <Problem error={error} /> : <Empty>{__('Reading…')}</Empty>;
  }
  return (
    <section className="bsft-detail">
      <Fields values={data.inputs} />
      <Fields values={data.labels} suffix={` (${__('label')})`} />
      {props.columns.map(column => (
        <details key={column} open>
          <summary>{__(column)}</summary>
          <Answer answer={data.answers[column]} />
          <Calls calls={data.calls?.[column] ?? []} />
        </details>
      ))}
    </section>
  );
}

function Slices(props: {
  runKey: string;
  field: string;
  value: string;
  onValue: (value: string) => void;
}): JSX.Element {
  const { data, error } = useAnswer(
    signal => shared.runs.api.run<ISlice[]>(props.runKey, ['slices'], { field: props.field }, signal),
    [props.runKey, props.field]
  );
  if (!data) {
    return error ? <Problem error={error} /> : <Empty>{__('Reading…')}</Empty>;
  }
  const percent = (x: number) => `${Math.round(100 * x)}%`;
  return (
    <div className="bsft-scroll bsft-slices">
      <table className="bsft-table">
        <caption>
          {__(
            'Slices by %1: how often the tuned student wins of those decided, with the 95% interval',
            props.field
          )}
        </caption>
        <thead>
          <tr>
            {[props.field, __('rows'), __('tuned'), __('teacher'), __('won : lost'), __('win rate')].map(
              head => (
                <th key={head} scope="col">
                  <Said value={head} />
                </th>
              )
            )}
          </tr>
        </thead>
        <tbody>
          {data.map(s => (
            <tr
              key={s.value}
              className={props.value === s.value ? 'bsft-mod-open' : ''}
              onClick={() => props.onValue(props.value === s.value ? '' : s.value)}
            >
              <td>
                <button type="button" className="bsft-open" aria-pressed={props.value === s.value}>
                  <Said value={s.value} />
                </button>
              </td>
              <td className="bsft-number">{s.n.toLocaleString('en')}</td>
              <td className="bsft-number">{shown(s.score)}</td>
              <td className="bsft-number">{shown(s.against)}</td>
              <td className="bsft-number">
                {s.wins.toLocaleString('en')} : {s.losses.toLocaleString('en')}
              </td>
              <td>
                {s.rate === null ? (
                  '–'
                ) : (
                  <span className="bsft-interval">
                    <svg width="80" height="12" aria-hidden="true">
                      <line className="bsft-grid" x1={40} x2={40} y1={0} y2={12} />
                      <line
                        stroke="currentColor"
                        strokeWidth={2}
                        x1={80 * s.low}
                        x2={80 * s.high}
                        y1={6}
                        y2={6}
                      />
                      <circle r={3} fill="currentColor" cx={80 * s.rate} cy={6} />
                    </svg>{' '}
                    {percent(s.rate)} ({percent(s.low)}–{percent(s.high)})
                  </span>
                )}
              </td>
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}

const compared = (): ITable<IRow, ICompare> => ({
  what: 'compare',
  noun: __('rows'),
  search: __('Search answers'),
  none: __('No row matches.'),
  className: 'bsft-compare',
  chips: {
    name: 'filter',
    label: __('Show'),
    first: 'all',
    of: page => Object.entries(page.filters).map(([name, n]) => [name, `${name} ${n.toLocaleString('en')}`])
  },
  order: {
    label: __('Sort by'),
    of: page => [['', __('as written')], ...page.fields.map((f): [string, string] => [f, f])],
    turns: true
  },
  columns: page => [
    { head: __('inputs'), cell: row => <Fields values={row.inputs} /> },
    { head: __('label'), cell: row => <Fields values={row.labels} /> },
    ...page.columns.map(column => ({
      head: __(column),
      cell: (row: IRow) => <Answer answer={row.answers[column]} />
    }))
  ],
  detail: (row, { page, runKey }) => <RowFull runKey={runKey} row={row.row} columns={page.columns} />
});

export function Compare(props: { runKey: string; stamp: string }): JSX.Element {
  const table = React.useMemo(compared, []);
  const [slice, setSlice] = React.useState({ field: '', value: '' });
  const { field, value } = slice;
  return (
    <Table
      table={table}
      runKey={props.runKey}
      stamp={props.stamp}
      more={value ? slice : {}}
      tools={page => (
        <Choice
          label={__('Slices by')}
          value={field}
          onChange={name => setSlice({ field: name, value: '' })}
          options={[['', __('no slices')], ...page.fields.map((f): [string, string] => [f, f])]}
        />
      )}
      above={() =>
        field ? (
          <Slices
            runKey={props.runKey}
            field={field}
            value={value}
            onValue={next => setSlice({ field, value: next })}
          />
        ) : null
      }
      below={
        <p className="bsft-quiet">
          <del>{__('Struck through')}</del>: {__("only the teacher's")}; <ins>{__('underlined')}</ins>:{' '}
          {__("only the student's")}.
        </p>
      }
    />
  );
}
