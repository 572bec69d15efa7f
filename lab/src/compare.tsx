/** Teacher, tuned and untuned student side by side. */
import React from 'react';
import {
  __,
  Button,
  Choice,
  Empty,
  Fields,
  Pager,
  Problem,
  Said,
  Search,
  shared,
  useAnswer,
  useLate
} from './base';
import { Calls, Number_ } from './data';
import { shown } from './logic';
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

export function Compare(props: { runKey: string; stamp: string }): JSX.Element {
  const [filter, setFilter] = React.useState('all');
  const [search, setSearch] = React.useState('');
  const [sort, setSort] = React.useState('');
  const [descending, setDescending] = React.useState(false);
  const [field, setField] = React.useState('');
  const [value, setValue] = React.useState('');
  const [page, setPage] = React.useState(0);
  const [open, setOpen] = React.useState<number | null>(null);
  const late = useLate(search);
  const size = shared.rowsPerPage;
  const asked = { filter, search: late, sort, descending, field: value ? field : '', value, page, size };
  const { data, error, asking } = useAnswer(
    signal => shared.runs.api.run<ICompare>(props.runKey, ['compare'], asked, signal),
    [props.runKey, props.stamp, ...Object.values(asked)]
  );
  React.useEffect(() => (setPage(0), setOpen(null)), [filter, late, sort, descending, value]);
  React.useEffect(() => setValue(''), [field]);
  if (!data) {
    return error ? <Empty>{error}</Empty> : <Empty>{__('Reading…')}</Empty>;
  }
  const fields = data.fields.map(f => [f, f] as [string, string]);
  const width = data.columns.length + 3;
  return (
    <>
      <div className="bsft-row bsft-wrap" role="group" aria-label={__('Show')}>
        {Object.entries(data.filters).map(([name, n]) => (
          <Button
            key={name}
            kind="chip"
            pressed={filter === name}
            label={`${name} ${n.toLocaleString('en')}`}
            onClick={() => setFilter(name)}
          />
        ))}
      </div>
      <div className="bsft-row bsft-wrap">
        <Search value={search} onChange={setSearch} label={__('Search answers')} />
        <Choice
          label={__('Sort by')}
          value={sort}
          onChange={setSort}
          options={[['', __('as written')], ...fields]}
        />
        {sort ? (
          <Button
            kind="chip"
            pressed={descending}
            label={__('descending')}
            onClick={() => setDescending(!descending)}
          />
        ) : null}
        <Choice
          label={__('Slices by')}
          value={field}
          onChange={setField}
          options={[['', __('no slices')], ...fields]}
        />
        <Pager page={page} n={data.n} of={data.of} size={size} onPage={setPage} noun={__('rows')} />
      </div>
      {field ? <Slices runKey={props.runKey} field={field} value={value} onValue={setValue} /> : null}
      <div className="bsft-scroll" aria-busy={asking}>
        <table className="bsft-table bsft-compare">
          <thead>
            <tr>
              <th scope="col">#</th>
              <th scope="col">{__('inputs')}</th>
              <th scope="col">{__('label')}</th>
              {data.columns.map(column => (
                <th key={column} scope="col">
                  {__(column)}
                </th>
              ))}
            </tr>
          </thead>
          <tbody>
            {data.rows.map(row => (
              <React.Fragment key={row.row}>
                <tr
                  className={open === row.row ? 'bsft-mod-open' : ''}
                  onClick={() => setOpen(open === row.row ? null : row.row)}
                >
                  <Number_
                    row={row.row}
                    open={open === row.row}
                    onOpen={() => setOpen(open === row.row ? null : row.row)}
                  />
                  <td>
                    <Fields values={row.inputs} />
                  </td>
                  <td>
                    <Fields values={row.labels} />
                  </td>
                  {data.columns.map(column => (
                    <td key={column}>
                      <Answer answer={row.answers[column]} />
                    </td>
                  ))}
                </tr>
                {open === row.row ? (
                  <tr className="bsft-mod-detail">
                    <td colSpan={width}>
                      <RowFull runKey={props.runKey} row={row.row} columns={data.columns} />
                    </td>
                  </tr>
                ) : null}
              </React.Fragment>
            ))}
          </tbody>
        </table>
      </div>
      {data.rows.length ? (
        <p className="bsft-quiet">
          <del>{__('Struck through')}</del>: {__("only the teacher's")}; <ins>{__('underlined')}</ins>:{' '}
          {__("only the student's")}.
        </p>
      ) : (
        <Empty>{__('No row matches.')}</Empty>
      )}
    </>
  );
}
