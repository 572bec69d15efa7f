/** The log, and what was asked. */
import React from 'react';
import { __, Button, Choice, Empty, Said, Search, shared, useAnswer } from './base';
import { arranged, text } from './logic';
import { ISetting } from './types';

interface ILog {
  text: string;
  start: number;
  at: number;
  size: number;
}

export function Log(props: { runKey: string; live: boolean }): JSX.Element {
  const [log, setLog] = React.useState({ text: '', start: 0 });
  const [error, setError] = React.useState('');
  const [follow, setFollow] = React.useState(true);
  const box = React.useRef<HTMLPreElement>(null);
  React.useEffect(() => {
    let at = -1;
    let timer = 0;
    let over = false;
    const look = async () => {
      try {
        const more = await shared.runs.api.run<ILog>(props.runKey, ['log'], { at });
        if (over) {
          return;
        }
        const begins = at < 0 || more.start !== at;
        at = more.at;
        setError('');
        if (more.text || begins) {
          setLog(before =>
            begins
              ? { text: more.text, start: more.start }
              : { text: (before.text + more.text).slice(-1_000_000), start: before.start }
          );
        }
      } catch (reason) {
        if (!over) {
          setError((reason as Error).message);
        }
      }
      if (!over && props.live) {
        timer = window.setTimeout(look, 1500);
      }
    };
    void look();
    return () => {
      over = true;
      clearTimeout(timer);
    };
  }, [props.runKey, props.live]);
  React.useEffect(() => {
    if (follow && box.current) {
      box.current.scrollTop = box.current.scrollHeight;
    }
  }, [log, follow]);
  if (error && !log.text) {
    return <Empty>{error}</Empty>;
  }
  return (
    <>
      <div className="bsft-row">
        <span className="bsft-quiet bsft-grow">{log.start ? __('The end of a longer log') : ''}</span>
        <Button kind="chip" pressed={follow} label={__('Follow')} onClick={() => setFollow(!follow)} />
      </div>
      <pre className="bsft-pre bsft-log" ref={box} tabIndex={0} aria-label={__('Log of the training')}>
        <Said value={log.text} />
      </pre>
    </>
  );
}

export function Settings(props: { runKey: string }): JSX.Element {
  const [against, setAgainst] = React.useState('');
  const [search, setSearch] = React.useState('');
  const [only, setOnly] = React.useState(true);
  const { data, error } = useAnswer(
    signal => shared.runs.api.run<ISetting[]>(props.runKey, ['settings'], { against }, signal),
    [props.runKey, against]
  );
  const { live, ended } = arranged(shared.runs.cards.values(), '', 'all', 'newest');
  const others = [...live, ...ended].filter(c => c.key !== props.runKey).slice(0, 200);
  const rows = (data ?? []).filter(
    r =>
      (!against || !only || r.differs) &&
      `${r.name} ${text(r.value)}`.toLowerCase().includes(search.toLowerCase())
  );
  return (
    <>
      <div className="bsft-row bsft-wrap">
        <Search value={search} onChange={setSearch} label={__('Search settings')} />
        <Choice
          label={__('Compare with')}
          value={against}
          onChange={setAgainst}
          options={[['', __('compare with…')], ...others.map(c => [c.key, c.id] as [string, string])]}
        />
        {against ? (
          <Button kind="chip" pressed={only} label={__('Only what differs')} onClick={() => setOnly(!only)} />
        ) : null}
      </div>
      {error ? <Empty>{error}</Empty> : null}
      <div className="bsft-scroll">
        <table className="bsft-table bsft-settings">
          <thead>
            <tr>
              <th scope="col">{__('setting')}</th>
              <th scope="col">{__('value')}</th>
              {against ? (
                <th scope="col">
                  <Said value={shared.runs.cards.get(against)?.id ?? ''} />
                </th>
              ) : null}
            </tr>
          </thead>
          <tbody>
            {rows.map(row => (
              <tr key={row.name} data-differs={String(row.differs)}>
                <th scope="row">
                  <Said value={row.name} />
                </th>
                <td>
                  <Said value={row.value ?? '–'} />
                </td>
                {against ? (
                  <td>
                    <Said value={row.other ?? '–'} />
                  </td>
                ) : null}
              </tr>
            ))}
          </tbody>
        </table>
      </div>
      {data && !rows.length ? (
        <Empty>{against ? __('Nothing differs.') : __('No setting matches.')}</Empty>
      ) : null}
    </>
  );
}
