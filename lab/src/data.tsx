/** What the teacher said and what the student is trained on. */
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
  Unless,
  useAnswer,
  useLate
} from './base';
import { shown } from './logic';
import { IAttemptFull, IAttempts, ICall, IPair, IPairs, IView } from './types';

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

/** Rows whose number opens something below. */
function opens(
  open: number | null,
  row: number,
  onOpen: (row: number | null) => void
): React.HTMLAttributes<HTMLTableRowElement> {
  return { className: open === row ? 'bsft-mod-open' : '', onClick: () => onOpen(open === row ? null : row) };
}

export function Number_(props: { row: number; open: boolean; onOpen: () => void }): JSX.Element {
  return (
    <td className="bsft-number">
      <button
        type="button"
        className="bsft-open"
        aria-expanded={props.open}
        aria-label={__('Open %1', props.row + 1)}
        onClick={event => (event.stopPropagation(), props.onOpen())}
      >
        {(props.row + 1).toLocaleString('en')}
      </button>
    </td>
  );
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

function Attempts(props: { runKey: string; stamp: string }): JSX.Element {
  const [filter, setFilter] = React.useState('all');
  const [predictor, setPredictor] = React.useState('');
  const [search, setSearch] = React.useState('');
  const [sort, setSort] = React.useState('');
  const [page, setPage] = React.useState(0);
  const [open, setOpen] = React.useState<number | null>(null);
  const late = useLate(search);
  const size = shared.rowsPerPage;
  const asked = {
    filter,
    predictor,
    search: late,
    sort: sort ? 'score' : '',
    descending: sort === 'best',
    page,
    size
  };
  const { data, error } = useAnswer(
    signal => shared.runs.api.run<IAttempts>(props.runKey, ['attempts'], asked, signal),
    [props.runKey, props.stamp, ...Object.values(asked)]
  );
  React.useEffect(() => setPage(0), [filter, predictor, late, sort]);
  if (!data) {
    return error ? <Empty>{error}</Empty> : <Empty>{__('Reading…')}</Empty>;
  }
  return (
    <>
      <div className="bsft-row bsft-wrap" role="group" aria-label={__('Outcome')}>
        {[['all', data.of] as [string, number], ...Object.entries(data.outcomes)].map(([name, n]) => (
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
        <Search value={search} onChange={setSearch} label={__('Search attempts')} />
        {Object.keys(data.predictors).length > 1 ? (
          <Choice
            label={__('Predictor')}
            value={predictor}
            onChange={setPredictor}
            options={[
              ['', __('all predictors')],
              ...Object.keys(data.predictors).map(p => [p, p] as [string, string])
            ]}
          />
        ) : null}
        <Choice
          label={__('Order')}
          value={sort}
          onChange={setSort}
          options={[
            ['', __('as made')],
            ['best', __('best score first')],
            ['worst', __('worst score first')]
          ]}
        />
        <Pager page={page} n={data.n} of={data.of} size={size} onPage={setPage} noun={__('attempts')} />
      </div>
      <Threshold runKey={props.runKey} />
      <div className="bsft-scroll">
        <table className="bsft-table">
          <thead>
            <tr>
              <th scope="col">#</th>
              <th scope="col">{__('inputs')}</th>
              <th scope="col">{__("teacher's answer")}</th>
              <th scope="col">{__('score')}</th>
              <th scope="col">{__('outcome')}</th>
            </tr>
          </thead>
          <tbody>
            {data.rows.map(row => (
              <React.Fragment key={row.row}>
                <tr {...opens(open, row.row, setOpen)}>
                  <Number_
                    row={row.row}
                    open={open === row.row}
                    onOpen={() => setOpen(open === row.row ? null : row.row)}
                  />
                  <td>
                    <Fields values={row.inputs} />
                  </td>
                  <td>
                    {row.error ? (
                      <Said className="bsft-bad" value={row.error} />
                    ) : (
                      <Fields values={row.prediction} />
                    )}
                  </td>
                  <td className="bsft-number">{shown(row.score)}</td>
                  <td data-outcome={row.outcome}>
                    <Said value={row.outcome} />
                  </td>
                </tr>
                {open === row.row ? (
                  <tr className="bsft-mod-detail">
                    <td colSpan={5}>
                      <AttemptFull runKey={props.runKey} row={row.row} />
                    </td>
                  </tr>
                ) : null}
              </React.Fragment>
            ))}
          </tbody>
        </table>
      </div>
      {data.rows.length ? null : <Empty>{__('No attempt matches.')}</Empty>}
    </>
  );
}

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

function Rows(props: { runKey: string; stamp: string }): JSX.Element {
  const [split, setSplit] = React.useState('train');
  const [predictor, setPredictor] = React.useState('');
  const [search, setSearch] = React.useState('');
  const [sort, setSort] = React.useState('');
  const [page, setPage] = React.useState(0);
  const [open, setOpen] = React.useState<number | null>(null);
  const late = useLate(search);
  const size = shared.rowsPerPage;
  const [by, how] = sort.split(' ');
  const asked = { split, predictor, search: late, sort: by, descending: how === 'down', page, size };
  const { data, error } = useAnswer(
    signal => shared.runs.api.run<IPairs>(props.runKey, ['pairs'], asked, signal),
    [props.runKey, props.stamp, ...Object.values(asked)]
  );
  React.useEffect(() => (setPage(0), setOpen(null)), [split, predictor, late, sort]);
  if (!data) {
    return error ? <Empty>{error}</Empty> : <Empty>{__('Reading…')}</Empty>;
  }
  return (
    <>
      <div className="bsft-row bsft-wrap">
        {Object.entries(data.splits).map(([name, n]) => (
          <Button
            key={name}
            kind="chip"
            pressed={split === name}
            label={`${name === 'train' ? __('trained on') : __('held out')} ${n.toLocaleString('en')}`}
            onClick={() => setSplit(name)}
          />
        ))}
      </div>
      <div className="bsft-row bsft-wrap">
        <Search value={search} onChange={setSearch} label={__('Search rows')} />
        {Object.keys(data.predictors).length > 1 ? (
          <Choice
            label={__('Predictor')}
            value={predictor}
            onChange={setPredictor}
            options={[
              ['', __('all predictors')],
              ...Object.keys(data.predictors).map(p => [p, p] as [string, string])
            ]}
          />
        ) : null}
        <Choice
          label={__('Order')}
          value={sort}
          onChange={setSort}
          options={[
            ['', __('as built')],
            ['score down', __('best score first')],
            ['score up', __('worst score first')],
            ['prompt_tokens down', __('longest prompt first')],
            ['completion_tokens down', __('longest completion first')]
          ]}
        />
        <Pager page={page} n={data.n} of={data.of} size={size} onPage={setPage} noun={__('rows')} />
      </div>
      <div className="bsft-scroll">
        <table className="bsft-table">
          <thead>
            <tr>
              <th scope="col">#</th>
              <th scope="col">{__('predictor')}</th>
              <th scope="col">{__('prompt')}</th>
              <th scope="col">{__('completion')}</th>
              <th scope="col">{__('tokens')}</th>
              <th scope="col">{__('score')}</th>
            </tr>
          </thead>
          <tbody>
            {data.rows.map(row => (
              <React.Fragment key={row.row}>
                <tr {...opens(open, row.row, setOpen)}>
                  <Number_
                    row={row.row}
                    open={open === row.row}
                    onOpen={() => setOpen(open === row.row ? null : row.row)}
                  />
                  <td>
                    <Said value={row.predictor} />
                  </td>
                  <td>
                    <Said className="bsft-clip" value={row.prompt} />
                  </td>
                  <td>
                    <Said className="bsft-clip" value={row.completion} />
                  </td>
                  <td className="bsft-number">
                    {row.prompt_tokens.toLocaleString('en')} + {row.completion_tokens.toLocaleString('en')}
                  </td>
                  <td className="bsft-number">{shown(row.score)}</td>
                </tr>
                {open === row.row ? (
                  <tr className="bsft-mod-detail">
                    <td colSpan={6}>
                      <PairFull runKey={props.runKey} split={split} row={row.row} />
                    </td>
                  </tr>
                ) : null}
              </React.Fragment>
            ))}
          </tbody>
        </table>
      </div>
      {data.rows.length ? null : <Empty>{__('No row matches.')}</Empty>}
    </>
  );
}

export function Data(props: { runKey: string; view: IView }): JSX.Element {
  const [which, setWhich] = React.useState('attempts');
  const { state, missing, card } = props.view;
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
          <Attempts runKey={props.runKey} stamp={String(state.tried)} />
        </Unless>
      ) : (
        <Unless missing={missing.pairs}>
          <Rows runKey={props.runKey} stamp={card.status} />
        </Unless>
      )}
    </>
  );
}
