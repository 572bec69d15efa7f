/** A run's page: the answer first, then the steps, then everything that can be looked up. */
import { ReactWidget } from '@jupyterlab/ui-components';
import React from 'react';
import {
  __,
  _n,
  Bar,
  Button,
  does,
  Empty,
  Problem,
  runIcon,
  Said,
  shared,
  Status,
  Unless,
  useAnswer
} from './base';
import { Compare } from './compare';
import { ModelCurves } from './curves';
import { Data } from './data';
import { ranged, shown } from './logic';
import { Log, Settings } from './more';
import { IStep, IVerdict, IView } from './types';

const MARKS = { done: '✓', now: '●', stopped: '■', broken: '✕', ahead: '○' };

function Stepper(props: { steps: IStep[] }): JSX.Element {
  return (
    <ol className="bsft-steps" aria-label={__('Steps')}>
      {props.steps.map(step => (
        <li key={step.name} data-how={step.how} aria-current={step.how === 'now' ? 'step' : undefined}>
          <div className="bsft-step">
            <span aria-hidden="true">{MARKS[step.how]}</span> {__(step.name)}
            <span className="bsft-hidden">: {__(step.how)}</span>
          </div>
          {step.how === 'now' ? <Bar share={step.share} label={__('%1: how far it is', step.name)} /> : null}
          <div className="bsft-quiet">{[step.said, step.left || step.took].filter(Boolean).join(' · ')}</div>
        </li>
      ))}
    </ol>
  );
}

function ScoreCards(props: { view: IView; verdict: IVerdict | null }): JSX.Element | null {
  const { state, card } = props.view;
  const scores = ['teacher', 'tuned', 'untuned'].map(which => {
    const judged = props.verdict?.columns[which];
    const told = state.scores[which];
    return {
      which,
      score: judged?.score ?? told?.score ?? card.scores[which]?.score ?? null,
      n: judged?.n ?? told?.n ?? null,
      range: ranged(judged?.interval),
      failed: judged?.failed ?? 0
    };
  });
  if (scores.every(s => s.score === null)) {
    return null;
  }
  return (
    <div className="bsft-cards">
      {scores.map(s => (
        <div key={s.which} className="bsft-score" data-which={s.which}>
          <div className="bsft-quiet">{__(s.which)}</div>
          <div className="bsft-figure">{shown(s.score)}</div>
          <div className="bsft-quiet">
            {s.n === null ? '\u00a0' : _n('%2 example', '%2 examples', s.n)}
            {s.failed ? `, ${__('%1 failed', s.failed.toLocaleString('en'))}` : ''}
          </div>
          {s.range ? (
            <div className="bsft-quiet" title={__('95% interval')}>
              {s.range}
            </div>
          ) : null}
        </div>
      ))}
    </div>
  );
}

function Header(props: { view: IView; verdict: IVerdict | null; weighing: boolean }): JSX.Element {
  const { card, state } = props.view;
  const key = { key: card.key };
  const running = card.status === 'running';
  return (
    <header className="bsft-head">
      <div className="bsft-row bsft-wrap">
        <h1>
          <Said value={card.id} />
        </h1>
        <Status status={card.status} />
        <span className="bsft-grow" />
        {running ? (
          <Button
            kind="stop"
            label={__('Stop')}
            title={__('Ends at the next step and keeps what is finished')}
            onClick={() => does('bsft:stop', key)}
          />
        ) : null}
        <Button
          label={__('Report')}
          title={__('The run as one page')}
          onClick={() => does('bsft:report', key)}
        />
        <Button label={__('Copy code')} title={card.code} onClick={() => does('bsft:copy-code', key)} />
      </div>
      <div className="bsft-quiet">
        <Said
          value={[
            card.program && card.target ? `${card.program} → ${card.target}` : card.program || card.target,
            card.took,
            card.where
          ]
            .filter(Boolean)
            .join(' · ')}
        />
      </div>
      <div className="bsft-answer">
        <div className="bsft-verdict" data-decision={props.verdict?.decision ?? card.status}>
          {props.verdict ? (
            <>
              <h2>
                <Said value={props.verdict.decision} />
              </h2>
              <ul>
                {props.verdict.words.slice(0, 3).map(words => (
                  <li key={words}>
                    <Said value={words} />
                  </li>
                ))}
              </ul>
              {props.verdict.words.length > 3 ? (
                <details>
                  <summary>{__('more')}</summary>
                  <ul>
                    {props.verdict.words.slice(3).map(words => (
                      <li key={words}>
                        <Said value={words} />
                      </li>
                    ))}
                  </ul>
                </details>
              ) : null}
            </>
          ) : (
            <h2 aria-live="polite">
              <Said
                value={
                  props.weighing
                    ? __('Weighing the scores…')
                    : running
                      ? (card.live?.line ?? '')
                      : card.error || state.note || __('Nothing was compared yet.')
                }
              />
            </h2>
          )}
        </div>
        <ScoreCards view={props.view} verdict={props.verdict} />
      </div>
      {card.error && props.verdict ? <Problem error={card.error} /> : null}
      <Stepper steps={props.view.steps} />
    </header>
  );
}

function Funnel(props: { view: IView }): JSX.Element | null {
  const order: [string, string][] = [
    ['tried', 'tried'],
    ['ran', 'ran'],
    ['parsed', 'parsed'],
    ['kept', 'accepted']
  ];
  const rows: [string, string][] = [
    ['calls', 'calls'],
    ['written', 'written'],
    ['deduplicated', 'deduplicated'],
    ['fitted', 'fitted'],
    ['trained', 'trained'],
    ['held out', 'held out']
  ];
  const { funnel, reasons } = props.view.state;
  const table = (title: string, stages: [string, string][]) => {
    const known = stages.filter(([stage]) => funnel[stage]);
    const most = Math.max(1, ...known.map(([stage]) => funnel[stage].all ?? 0));
    return known.length ? (
      <table className="bsft-table bsft-funnel">
        <caption>{title}</caption>
        <tbody>
          {known.map(([stage, label]) => (
            <tr key={stage}>
              <th scope="row">{__(label)}</th>
              <td className="bsft-number">{(funnel[stage].all ?? 0).toLocaleString('en')}</td>
              <td className="bsft-track">
                <div style={{ width: `${(100 * (funnel[stage].all ?? 0)) / most}%` }} />
              </td>
            </tr>
          ))}
        </tbody>
      </table>
    ) : null;
  };
  const dropped = Object.entries(reasons);
  return Object.keys(funnel).length || dropped.length ? (
    <section>
      <h3>{__('From attempts to rows')}</h3>
      <div className="bsft-two">
        {table(__('Attempts'), order)}
        {table(__('Rows'), rows)}
      </div>
      {dropped.length ? (
        <p className="bsft-quiet">
          {__('Not accepted')}: {dropped.map(([why, n]) => `${n.toLocaleString('en')} ${why}`).join(', ')}
        </p>
      ) : null}
    </section>
  ) : null;
}

function Overview(props: { view: IView }): JSX.Element {
  const { state, warnings } = props.view;
  const models = Object.entries(state.curves);
  return (
    <>
      {warnings.length ? (
        <section>
          <h3>{__('Warnings')}</h3>
          <ul className="bsft-warnings">
            {warnings.map(w => (
              <li key={w}>
                <Said value={w} />
              </li>
            ))}
          </ul>
        </section>
      ) : null}
      {models.length ? (
        <section>
          <h3>{__('Training')}</h3>
          <div className={models.length > 1 ? 'bsft-many' : ''}>
            {models.map(([model, curves]) => (
              <ModelCurves key={model} model={model} curves={curves} named={models.length > 1} />
            ))}
          </div>
        </section>
      ) : null}
      <Funnel view={props.view} />
      {!warnings.length &&
      !models.length &&
      !Object.keys(state.funnel).length &&
      !Object.keys(state.reasons).length ? (
        <Empty>{__('Nothing has happened yet.')}</Empty>
      ) : null}
    </>
  );
}

const TABS: [string, string][] = [
  ['overview', 'Overview'],
  ['data', 'Data'],
  ['compare', 'Compare'],
  ['log', 'Log'],
  ['settings', 'Settings']
];

export function RunPage(props: { runKey: string }): JSX.Element {
  const { runKey } = props;
  const [view, setView] = React.useState<IView | null>(shared.runs.views.get(runKey) ?? null);
  const [error, setError] = React.useState('');
  const [tab, setTab] = React.useState('overview');
  React.useEffect(() => {
    const take = (_: unknown, key: string) => key === runKey && setView(shared.runs.views.get(key) ?? null);
    shared.runs.viewed.connect(take);
    const unwatch = shared.runs.watch(runKey);
    shared.runs.api.run<IView>(runKey).then(
      first => setView(before => before ?? first),
      reason => setError(reason.message)
    );
    return () => {
      shared.runs.viewed.disconnect(take);
      unwatch();
    };
  }, [runKey]);
  const judged = useAnswer(
    signal => shared.runs.api.run<IVerdict | null>(runKey, ['verdict'], {}, signal),
    [runKey, view?.card.status, view?.missing['compare.jsonl']]
  );
  if (!view) {
    return error ? <Problem error={error} /> : <Empty>{__('Reading the run…')}</Empty>;
  }
  const turn = (event: React.KeyboardEvent) => {
    const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (by) {
      const next = TABS[(TABS.findIndex(([name]) => name === tab) + by + TABS.length) % TABS.length][0];
      setTab(next);
      (event.currentTarget.querySelector(`[data-tab="${next}"]`) as HTMLElement | null)?.focus();
    }
  };
  return (
    <article className="bsft-run">
      {view.read === null ? null : (
        <div className="bsft-reading" role="status">
          {__('A long log is being read: this is what the first %1% of it say.', Math.floor(100 * view.read))}
          <Bar share={view.read} label={__('Reading the log')} />
        </div>
      )}
      <Header view={view} verdict={judged.data} weighing={judged.asking && !view.missing['compare.jsonl']} />
      <div role="tablist" className="bsft-tabs" aria-label={__('About the run')} onKeyDown={turn}>
        {TABS.map(([name, label]) => (
          <button
            key={name}
            type="button"
            role="tab"
            data-tab={name}
            id={`bsft-tab-${name}-${runKey}`}
            aria-selected={tab === name}
            aria-controls={`bsft-panel-${runKey}`}
            tabIndex={tab === name ? 0 : -1}
            onClick={() => setTab(name)}
          >
            {__(label)}
          </button>
        ))}
      </div>
      <div
        role="tabpanel"
        id={`bsft-panel-${runKey}`}
        aria-labelledby={`bsft-tab-${tab}-${runKey}`}
        className="bsft-panel"
      >
        {tab === 'overview' ? <Overview view={view} /> : null}
        {tab === 'data' ? <Data runKey={runKey} view={view} /> : null}
        {tab === 'compare' ? (
          <Unless missing={view.missing['compare.jsonl']}>
            <Compare runKey={runKey} stamp={view.card.status} />
          </Unless>
        ) : null}
        {tab === 'log' ? (
          <Unless missing={view.missing['train.log']}>
            <Log runKey={runKey} live={view.card.status === 'running'} />
          </Unless>
        ) : null}
        {tab === 'settings' ? <Settings runKey={runKey} /> : null}
      </div>
    </article>
  );
}

/** A run's page as a widget. */
export class RunWidget extends ReactWidget {
  constructor(
    readonly key: string,
    name: string
  ) {
    super();
    this.addClass('bsft-document');
    this.title.label = name;
    this.title.icon = runIcon;
    this.title.closable = true;
  }

  render(): JSX.Element {
    return <RunPage runKey={this.key} />;
  }
}

/** The page of the run whose `run.json` lies at a path. */
export class FoundRunWidget extends ReactWidget {
  constructor(private path: string) {
    super();
    this.addClass('bsft-document');
  }

  render(): JSX.Element {
    return <Found path={this.path} />;
  }
}

function Found(props: { path: string }): JSX.Element {
  const { data, error } = useAnswer(
    signal => shared.runs.api.ask<{ key: string }>(['find'], { path: props.path }, 'GET', signal),
    [props.path]
  );
  if (error) {
    return (
      <>
        <Problem error={error} />
        <Button
          label={__('Open as text')}
          onClick={() =>
            void shared.commands.execute('docmanager:open', { path: props.path, factory: 'Editor' })
          }
        />
      </>
    );
  }
  return data ? <RunPage runKey={data.key} /> : <Empty>{__('Looking for the run…')}</Empty>;
}
