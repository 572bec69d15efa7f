/** The sidebar: runs under way on top, then all others. */
import { ReactWidget, UseSignal } from '@jupyterlab/ui-components';
import React from 'react';
import { __, Bar, Button, Choice, does, Empty, runIcon, Said, Search, shared, Status } from './base';
import { age, arranged, Order } from './logic';
import { ICard, Status as State } from './types';

const MOST = 100; // cards that are drawn at once

const SCORES: [string, string][] = [
  ['tuned', 'tuned'],
  ['teacher', 'teacher'],
  ['untuned', 'untuned']
];

function Scores(props: { card: ICard }): JSX.Element | null {
  const known = SCORES.filter(([which]) => props.card.scores[which]);
  return known.length ? (
    <div className="bsft-scores">
      {known.map(([which, label]) => (
        <span key={which} data-which={which}>
          <b>{props.card.scores[which].said}</b> {__(label)}
        </span>
      ))}
    </div>
  ) : null;
}

function LiveCard(props: { card: ICard }): JSX.Element {
  const { card } = props;
  const live = card.live;
  return (
    <>
      <Bar share={live?.share ?? null} label={__('%1: how far it is', card.id)} />
      <div className="bsft-row" aria-live="polite">
        <span className="bsft-grow">{[live?.said, live?.left, live?.cost].filter(Boolean).join(' · ')}</span>
        <Button
          kind="stop"
          label={__('Stop')}
          title={__('Ends at the next step and keeps what is finished')}
          onClick={() => does('bsft:stop', { key: card.key })}
        />
      </div>
    </>
  );
}

const Card = React.memo(function Card(props: {
  card: ICard;
  ticked: boolean;
  onTick: (key: string) => void;
  now: number;
}): JSX.Element {
  const { card } = props;
  const about = [card.target, card.took, age(card.began, props.now)].filter(Boolean).join(' · ');
  return (
    <li className="bsft-card" data-key={card.key} data-status={card.status}>
      <div className="bsft-row">
        <input
          type="checkbox"
          checked={props.ticked}
          aria-label={__('Compare %1 with others', card.id)}
          onChange={() => props.onTick(card.key)}
        />
        <button
          type="button"
          className="bsft-open"
          title={`${card.where}${card.error ? '\n' + card.error : ''}`}
          onClick={() => does('bsft:open', { key: card.key })}
        >
          <Said value={card.id} />
        </button>
        {card.status === 'running' ? null : <Status status={card.status} />}
      </div>
      {card.status === 'running' ? <LiveCard card={card} /> : <Scores card={card} />}
      <div className="bsft-about">
        <Said value={about} />
      </div>
    </li>
  );
});

function Sidebar(): JSX.Element {
  const runs = shared.runs;
  const [search, setSearch] = React.useState('');
  const [state, setState] = React.useState<State | 'all'>('all');
  const [picked, setOrder] = React.useState<Order | null>(null);
  const order = picked ?? shared.settings.sort;
  const [most, setMost] = React.useState(MOST);
  const [ticked, setTicked] = React.useState<string[]>([]);
  const [now, setNow] = React.useState(Date.now() / 1000);
  React.useEffect(() => {
    const timer = setInterval(() => setNow(Date.now() / 1000), 30000);
    return () => clearInterval(timer);
  }, []);
  const tick = React.useCallback(
    (key: string) =>
      setTicked(before => (before.includes(key) ? before.filter(k => k !== key) : [...before, key])),
    []
  );
  const { live, ended } = arranged(runs.cards.values(), search, state, order);
  const chosen = ticked.filter(key => runs.cards.has(key));
  const card = (c: ICard) => (
    <Card key={c.key} card={c} ticked={chosen.includes(c.key)} onTick={tick} now={now} />
  );
  return (
    <>
      <div className="bsft-top">
        <div className="bsft-row">
          <h2 className="bsft-grow">{__('Fine-tuning')}</h2>
          <Button
            label={__('New')}
            title={__('New fine-tuning: a notebook with the compile panel')}
            onClick={() => does('bsft:new', {})}
          />
        </div>
        <Search value={search} onChange={setSearch} label={__('Search runs')} />
        <div className="bsft-row">
          <Choice
            label={__('Show runs of this state')}
            value={state}
            onChange={value => setState(value as State | 'all')}
            options={[
              ['all', __('all')],
              ['running', __('running')],
              ['finished', __('finished')],
              ['stopped', __('stopped')],
              ['failed', __('failed')],
              ['died', __('died')]
            ]}
          />
          <Choice
            label={__('Order')}
            value={order}
            onChange={value => setOrder(value as Order)}
            options={[
              ['newest', __('newest first')],
              ['score', __('best score first')],
              ['duration', __('longest first')],
              ['name', __('by name')]
            ]}
          />
        </div>
        {chosen.length > 1 ? (
          <div className="bsft-row">
            <Button
              label={__('Compare %1 runs', chosen.length)}
              onClick={() => does('bsft:compare-runs', { keys: chosen })}
            />
            <Button label={__('Clear')} onClick={() => setTicked([])} />
          </div>
        ) : null}
        {runs.connected || !runs.loaded ? null : (
          <p className="bsft-away" role="status">
            {__('The server does not answer; trying again.')}
          </p>
        )}
      </div>
      <div className="bsft-list">
        {live.length ? (
          <section aria-label={__('Running')}>
            <h3>{__('Running')}</h3>
            <ul>{live.map(card)}</ul>
          </section>
        ) : null}
        {ended.length ? (
          <section aria-label={__('Ended')}>
            <h3>
              {__('Ended')} <span className="bsft-count">{ended.length.toLocaleString('en')}</span>
            </h3>
            <ul>{ended.slice(0, most).map(card)}</ul>
            {ended.length > most ? (
              <Button
                label={__('Show %1 more', Math.min(MOST, ended.length - most))}
                onClick={() => setMost(most + MOST)}
              />
            ) : null}
          </section>
        ) : null}
        {!runs.loaded ? <Empty>{__('Looking for runs…')}</Empty> : null}
        {runs.loaded && !runs.cards.size ? (
          <Empty>
            {__('No runs yet. Compile a DSPy program with BootstrapFinetune, and it shows up here.')}
          </Empty>
        ) : null}
        {runs.cards.size && !live.length && !ended.length ? <Empty>{__('No run matches.')}</Empty> : null}
      </div>
    </>
  );
}

export class SidebarWidget extends ReactWidget {
  constructor() {
    super();
    this.id = 'bsft-sidebar';
    this.addClass('bsft-sidebar');
    this.title.icon = runIcon;
    this.title.caption = __('Fine-tuning');
    this.node.setAttribute('role', 'region');
    this.node.setAttribute('aria-label', __('Fine-tuning'));
  }

  /** Whoever comes by the palette or a shortcut goes on by keyboard. */
  protected onActivateRequest(): void {
    this.node.querySelector<HTMLElement>('.bsft-search')?.focus();
  }

  render(): JSX.Element {
    return (
      <UseSignal signal={shared.settingsChanged}>
        {() => <UseSignal signal={shared.runs.changed}>{() => <Sidebar />}</UseSignal>}
      </UseSignal>
    );
  }
}
