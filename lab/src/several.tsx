/** Several runs side by side: scores, curves laid over each other, what was asked otherwise. */
import { ReactWidget, UseSignal } from '@jupyterlab/ui-components';
import React from 'react';
import { __, does, Empty, runIcon, Said, shared, Status, useAnswer } from './base';
import { Chart, COLOURS, IDrawn } from './curves';
import { ranged, shown, text } from './logic';
import { ICard, ISetting, IVerdict, IView } from './types';

type Read = { card: ICard; view: IView; verdict: IVerdict | null; settings: ISetting[] };

async function read(key: string, signal: AbortSignal): Promise<Read> {
  const { api } = shared.runs;
  const whole = async (): Promise<IView> => {
    const view = await api.run<IView>(key, [], {}, signal);
    return view.read === null ? view : whole(); // a long log takes several looks
  };
  const [view, verdict, settings] = await Promise.all([
    whole(),
    api.run<IVerdict | null>(key, ['verdict'], {}, signal),
    api.run<ISetting[]>(key, ['settings'], {}, signal)
  ]);
  return { card: view.card, view, verdict, settings };
}

function lines(runs: Read[], name: string): IDrawn[] {
  return runs.flatMap((run, i) =>
    Object.entries(run.view.state.curves)
      .filter(([, curves]) => curves[name]?.length)
      .map(([model, curves], _, all) => ({
        name: all.length > 1 ? `${run.card.id} ${model}` : run.card.id,
        colour: COLOURS[i % COLOURS.length],
        points: curves[name]
      }))
  );
}

function Several(props: { keys: string[] }): JSX.Element {
  const stamp = props.keys
    .map(key => JSON.stringify([shared.runs.cards.get(key)?.status, shared.runs.cards.get(key)?.live?.said]))
    .join();
  const { data, error } = useAnswer(signal => Promise.all(props.keys.map(key => read(key, signal))), [stamp]);
  if (!data) {
    return <Empty>{error || __('Reading the runs…')}</Empty>;
  }
  const names = [...new Set(data.flatMap(run => run.settings.map(s => s.name)))];
  const value = (run: Read, name: string) => text(run.settings.find(s => s.name === name)?.value ?? '–');
  const changed = names.filter(name => new Set(data.map(run => value(run, name))).size > 1);
  const charts: [string, string][] = [
    ['loss', __('Training loss')],
    ['eval_loss', __('Held-out loss')],
    ['score', __('Score of checkpoints')]
  ];
  return (
    <article className="bsft-run bsft-several">
      <h1>{__('%1 runs', data.length)}</h1>
      <div className="bsft-scroll">
        <table className="bsft-table">
          <thead>
            <tr>
              {[
                __('run'),
                __('state'),
                __('tuned'),
                __('teacher'),
                __('untuned'),
                __('verdict'),
                __('took')
              ].map(head => (
                <th key={head} scope="col">
                  {head}
                </th>
              ))}
            </tr>
          </thead>
          <tbody>
            {data.map((run, i) => (
              <tr key={run.card.key}>
                <td>
                  <button
                    type="button"
                    className="bsft-open"
                    onClick={() => does('bsft:open', { key: run.card.key })}
                  >
                    <i className="bsft-dot" style={{ background: COLOURS[i % COLOURS.length] }} />{' '}
                    <Said value={run.card.id} />
                  </button>
                </td>
                <td>
                  <Status status={run.card.status} />
                </td>
                {['tuned', 'teacher', 'untuned'].map(which => (
                  <td key={which} className="bsft-number">
                    {shown(run.verdict?.columns[which]?.score ?? run.card.scores[which]?.score)}
                    {run.verdict?.columns[which] ? (
                      <span className="bsft-quiet">
                        {' '}
                        {ranged(run.verdict.columns[which].interval)} n=
                        {run.verdict.columns[which].n.toLocaleString('en')}
                      </span>
                    ) : null}
                  </td>
                ))}
                <td>
                  <Said
                    value={run.verdict ? `${run.verdict.decision}. ${run.verdict.words[0] ?? ''}` : '–'}
                  />
                </td>
                <td className="bsft-number">{run.card.took || '–'}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
      {charts.map(([name, label]) => {
        const drawn = lines(data, name);
        return drawn.length ? (
          <section key={name}>
            <h2>{label}</h2>
            <Chart lines={drawn} label={label} />
          </section>
        ) : null;
      })}
      <h2>{__('Settings that differ')}</h2>
      {changed.length ? (
        <div className="bsft-scroll">
          <table className="bsft-table bsft-settings">
            <thead>
              <tr>
                <th scope="col">{__('setting')}</th>
                {data.map(run => (
                  <th key={run.card.key} scope="col">
                    <Said value={run.card.id} />
                  </th>
                ))}
              </tr>
            </thead>
            <tbody>
              {changed.map(name => (
                <tr key={name}>
                  <th scope="row">
                    <Said value={name} />
                  </th>
                  {data.map(run => (
                    <td key={run.card.key}>
                      <Said value={value(run, name)} />
                    </td>
                  ))}
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      ) : (
        <Empty>{__('Nothing differs.')}</Empty>
      )}
    </article>
  );
}

export class SeveralWidget extends ReactWidget {
  constructor(readonly keys: string[]) {
    super();
    this.addClass('bsft-document');
    this.title.label = __('%1 runs', keys.length);
    this.title.icon = runIcon;
    this.title.closable = true;
  }

  render(): JSX.Element {
    return <UseSignal signal={shared.runs.changed}>{() => <Several keys={this.keys} />}</UseSignal>;
  }
}
