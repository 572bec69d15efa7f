/** What the teacher said and what the student is trained on. */
import React from 'react';
import { __, Button, Empty, Fields, Problem, Said, shared, Unless, useAnswer, useLate } from './base';
import { shown } from './logic';
import { ITable, Table } from './table';
import { IAttempt, IAttemptFull, IAttempts, ICall, IPair, IPairs, IView } from './types';

export function Calls(props: { calls: ICall[] }): JSX.Element | null {
  return props.calls.length ? (
    <table className="bsft-table">
      <caption>{__('Calls')}</caption>
      <thead>
        <tr>
          <th scope="col">{__('predictor')}</th>
          <th scope="col">{__('inputs')}</th>
          <th scope="col">{__('outputs')}</th>
        </tr>
      </thead>
      <tbody>
        {props.calls.map((call, i) => (
          <tr key={i}>
            <td>
              <Said value={call.predictor} />
            </td>
            <td>
              <Fields values={call.inputs} />
            </td>
            <td>
              <Fields values={call.outputs} />
            </td>
          </tr>
        ))}
      </tbody>
    </table>
  ) : null;
}

function Threshold(props: { runKey: string }): JSX.Element | null {
  const [value, setValue] = React.useState<number | null>(null);
  const late = useLate(value);
  const { data } = useAnswer(
    signal =>
      shared.runs.api.run<{ left: number; of: number; low: number; high: number }>(
        props.runKey,
        ['threshold'],
        { value: late ?? -1e9 },
        signal
      ),
    [props.runKey, late]
  );
  if (!data || data.of === 0 || data.low === data.high) {
    return null;
  }
  const at = value ?? data.low;
  return (
    <label className="bsft-row bsft-wrap bsft-threshold">
      {__('Threshold')}
      <input
        type="range"
        min={data.low}
        max={data.high}
        step={(data.high - data.low) / 100}
        value={at}
        onChange={event => setValue(Number(event.target.value))}
      />
      <b>{shown(at)}</b>
      <span className="bsft-quiet" aria-live="polite">
        {__(
          'would leave %1 of %2 scored attempts',
          data.left.toLocaleString('en'),
          data.of.toLocaleString('en')
        )}
      </span>
    </label>
  );
}

function AttemptRows(props: { runKey: string; example: string }): JSX.Element | null {
  const { data } = useAnswer(
    signal =>
      shared.runs.api.run<IPairs>(
        props.runKey,
        ['pairs'],
        { field: 'example', value: props.example },
        signal
      ),
    [props.runKey, props.example]
  );
  return data?.rows.length ? (
    <>
      <h3>{__('Rows made of this example')}</h3>
      {data.rows.map(row => (
        <PairFull key={row.row} runKey={props.runKey} split="train" row={row.row} />
      ))}
    </>
  ) : null;
}

function AttemptFull(props: { runKey: string; row: number }): JSX.Element {
  const { data, error } = useAnswer(
    signal => shared.runs.api.run<IAttemptFull>(props.runKey, ['attempts', String(props.row)], {}, signal),
    [props.runKey, props.row]
  );
  if (!data) {
    return error ? <Problem error={error} /> : <Empty>{__('Reading…')}</Empty>;
  }
  return (
    <section className="bsft-detail">
      <h3>
        {__('Attempt %1', data.row + 1)}: {data.kept ? __('accepted') : data.reason || __('not accepted')}
        {data.score === null ? '' : `, ${__('score')} ${shown(data.score)}`}
      </h3>
      <div className="bsft-two">
        <div>
          <h4>{__('Inputs')}</h4>
          <Fields values={data.inputs} />
        </div>
        <div>
          <h4>{__("The teacher's answer")}</h4>
          <Fields values={data.prediction} />
        </div>
      </div>
      {data.error ? (
        <details open>
          <summary>{__('Error')}</summary>
          <pre className="bsft-pre">
            <Said value={data.error} />
          </pre>
        </details>
      ) : null}
      <Calls calls={data.calls ?? []} />
      {data.kept ? <AttemptRows runKey={props.runKey} example={data.example} /> : null}
    </section>
  );
}

const predictors = () => ({
  name: 'predictor',
  label: __('Predictor'),
  of: (page: { predictors: { [name: string]: number } }): [string, string][] => [
    ['', __('all predictors')],
    ...Object.keys(page.predictors).map((p): [string, string] => [p, p])
  ]
});

const attempts = (): ITable<IAttempt, IAttempts> => ({
  what: 'attempts',
  noun: __('attempts'),
  search: __('Search attempts'),
  none: __('No attempt matches.'),
  chips: {
    name: 'filter',
    label: __('Outcome'),
    first: 'all',
    of: page =>
      [['all', page.of] as [string, number], ...Object.entries(page.outcomes)].map(([name, n]) => [
        name,
        `${name} ${n.toLocaleString('en')}`
      ])
  },
  choices: [predictors()],
  order: {
    label: __('Order'),
    of: () => [
      ['', __('as made')],
      ['score↓', __('best score first')],
      ['score', __('worst score first')]
    ]
  },
  columns: () => [
    { head: __('inputs'), cell: row => <Fields values={row.inputs} /> },
    {
      head: __("teacher's answer"),
      cell: row =>
        row.error ? <Said className="bsft-bad" value={row.error} /> : <Fields values={row.prediction} />
    },
    { head: __('score'), cell: row => shown(row.score), number: true },
    {
      head: __('outcome'),
      cell: row => (
        <span data-outcome={row.outcome}>
          <Said value={row.outcome} />
        </span>
      )
    }
  ],
  detail: (row, { runKey }) => <AttemptFull runKey={runKey} row={row.row} />
});

function Tokens(props: { tokens: [number, string][] }): JSX.Element {
  return (
    <div className="bsft-tokens">
      {props.tokens.map(([id, said], i) => (
        <span key={i} title={`id ${id}`}>
          <Said value={said || '∅'} />
        </span>
      ))}
    </div>
  );
}

function PairFull(props: { runKey: string; split: string; row: number }): JSX.Element {
  const [tokens, setTokens] = React.useState(false);
  const { data, error } = useAnswer(
    signal =>
      shared.runs.api.run<IPair>(props.runKey, ['pairs', String(props.row)], { split: props.split }, signal),
    [props.runKey, props.split, props.row]
  );
  if (!data) {
    return error ? <Problem error={error} /> : <Empty>{__('Reading…')}</Empty>;
  }
  const part = (name: 'prompt' | 'completion', label: string) => (
    <div className={`bsft-${name}`}>
      <h4>{label}</h4>
      {tokens && data.tokens ? (
        <Tokens tokens={data.tokens[name]} />
      ) : (
        <pre className="bsft-pre">
          <Said value={data[name]} />
        </pre>
      )}
    </div>
  );
  return (
    <section className="bsft-detail">
      <h3>{__('Row %1', data.row + 1)}</h3>
      <div className="bsft-row bsft-wrap">
        <span className="bsft-quiet bsft-grow">
          <Said
            value={`${data.predictor} · ${__('score')} ${shown(data.score)} · ${data.prompt_tokens.toLocaleString('en')} + ${data.completion_tokens.toLocaleString('en')} ${__('tokens')}`}
          />
        </span>
        {data.tokens ? (
          <Button kind="chip" pressed={tokens} label={__('Tokens')} onClick={() => setTokens(!tokens)} />
        ) : null}
      </div>
      {part('prompt', __('Prompt (read, not learned)'))}
      {part('completion', __('Completion (learned)'))}
    </section>
  );
}

const rows = (): ITable<IPair, IPairs> => ({
  what: 'pairs',
  noun: __('rows'),
  search: __('Search rows'),
  none: __('No row matches.'),
  chips: {
    name: 'split',
    label: __('Part of the data'),
    first: 'train',
    of: page =>
      Object.entries(page.splits).map(([name, n]) => [
        name,
        `${name === 'train' ? __('trained on') : __('held out')} ${n.toLocaleString('en')}`
      ])
  },
  choices: [predictors()],
  order: {
    label: __('Order'),
    of: () => [
      ['', __('as built')],
      ['score↓', __('best score first')],
      ['score', __('worst score first')],
      ['prompt_tokens↓', __('longest prompt first')],
      ['completion_tokens↓', __('longest completion first')]
    ]
  },
  columns: () => [
    { head: __('predictor'), cell: row => <Said value={row.predictor} /> },
    { head: __('prompt'), cell: row => <Said className="bsft-clip" value={row.prompt} /> },
    { head: __('completion'), cell: row => <Said className="bsft-clip" value={row.completion} /> },
    {
      head: __('tokens'),
      cell: row =>
        `${row.prompt_tokens.toLocaleString('en')} + ${row.completion_tokens.toLocaleString('en')}`,
      number: true
    },
    { head: __('score'), cell: row => shown(row.score), number: true }
  ],
  detail: (row, { runKey, chip }) => <PairFull runKey={runKey} split={chip} row={row.row} />
});

export function Data(props: { runKey: string; view: IView }): JSX.Element {
  const [which, setWhich] = React.useState('attempts');
  const ofTeacher = React.useMemo(attempts, []);
  const ofStudent = React.useMemo(rows, []);
  const { state, missing, card } = props.view;
  const { runKey } = props;
  return (
    <>
      <div className="bsft-row" role="group" aria-label={__('Data')}>
        <Button
          kind="tab"
          pressed={which === 'attempts'}
          label={__('Attempts of the teacher')}
          onClick={() => setWhich('attempts')}
        />
        <Button
          kind="tab"
          pressed={which === 'rows'}
          label={__('Rows of the student')}
          onClick={() => setWhich('rows')}
        />
      </div>
      {which === 'attempts' ? (
        <Unless missing={missing['traces.jsonl']}>
          <Table
            key="attempts"
            table={ofTeacher}
            runKey={runKey}
            stamp={String(state.tried)}
            above={() => <Threshold runKey={runKey} />}
          />
        </Unless>
      ) : (
        <Unless missing={missing.pairs}>
          <Table key="rows" table={ofStudent} runKey={runKey} stamp={card.status} />
        </Unless>
      )}
    </>
  );
}
