/** What every part of the interface uses: texts, icons, small pieces. */
import { nullTranslator, TranslationBundle } from '@jupyterlab/translation';
import { LabIcon } from '@jupyterlab/ui-components';
import { CommandRegistry } from '@lumino/commands';
import { Signal } from '@lumino/signaling';
import React from 'react';
import { Runs } from './api';
import { Order, text, visible } from './logic';
import { Values } from './types';

const ICON =
  '<svg xmlns="http://www.w3.org/2000/svg" width="16" viewBox="0 0 24 24"><path class="jp-icon3" fill="#616161" d="M3 17v2h6v-2H3zM3 5v2h10V5H3zm10 16v-2h8v-2h-8v-2h-2v6h2zM7 9v2H3v2h4v2h2V9H7zm14 4v-2H11v2h10zm-6-4h2V7h4V5h-4V3h-2v6z"/></svg>';

export const runIcon = new LabIcon({ name: 'bsft_nb:run', svgstr: ICON });

/** As `schema/plugin.json` has them. */
export interface ISettings {
  notifications: 'all' | 'ends' | 'none';
  statusBar: boolean;
  sort: Order;
  rowsPerPage: number;
  refresh: number; // seconds
  folders: string[];
}

/** What all views share, set once when the extension is loaded. */
export const shared: {
  trans: TranslationBundle;
  runs: Runs;
  commands: CommandRegistry;
  settings: ISettings;
  settingsChanged: Signal<object, void>;
} = {
  trans: nullTranslator.load('bsft_nb'),
  runs: undefined as unknown as Runs,
  commands: undefined as unknown as CommandRegistry,
  settings: {
    notifications: 'all',
    statusBar: true,
    sort: 'newest',
    rowsPerPage: 25,
    refresh: 0.5,
    folders: []
  },
  settingsChanged: new Signal<object, void>({})
};

export const __ = (words: string, ...more: (string | number)[]): string =>
  shared.trans.__(words, ...more.map(String));

/** As `__`, for a number of things. */
export const _n = (one: string, several: string, n: number): string =>
  shared.trans._n(one, several, n, n.toLocaleString('en'));

export function does(command: string, args: { [name: string]: string | string[] }): void {
  void shared.commands.execute(command, args);
}

/** A button, a link in looks, or a toggle. */
export function Button(props: {
  onClick: () => void;
  label: string;
  title?: string;
  pressed?: boolean;
  disabled?: boolean;
  kind?: 'plain' | 'stop' | 'chip' | 'tab';
  children?: React.ReactNode;
}): JSX.Element {
  return (
    <button
      type="button"
      className={`bsft-button bsft-${props.kind ?? 'plain'}`}
      title={props.title}
      aria-label={props.children ? props.label : undefined}
      aria-pressed={props.pressed}
      disabled={props.disabled}
      onClick={event => {
        event.stopPropagation();
        props.onClick();
      }}
    >
      {props.children ?? props.label}
    </button>
  );
}

export function Bar(props: { share: number | null; label: string }): JSX.Element {
  const known = props.share !== null;
  return (
    <div
      className={known ? 'bsft-bar' : 'bsft-bar bsft-mod-unknown'}
      role="progressbar"
      aria-label={props.label}
      aria-valuemin={0}
      aria-valuemax={100}
      aria-valuenow={known ? Math.round(100 * (props.share as number)) : undefined}
    >
      <div style={{ width: known ? `${100 * (props.share as number)}%` : undefined }} />
    </div>
  );
}

export function Status(props: { status: string }): JSX.Element {
  return (
    <span className="bsft-status" data-status={props.status}>
      {props.status}
    </span>
  );
}

/** A text that stays a text, whatever is in it; long ones are cut in looks alone. */
export function Said(props: { value: unknown; className?: string }): JSX.Element {
  return (
    <bdi dir="auto" className={`bsft-said ${props.className ?? ''}`}>
      {visible(text(props.value))}
    </bdi>
  );
}

/** Names and values of an example or an answer. */
export function Fields(props: { values: Values | null | undefined; suffix?: string }): JSX.Element {
  return (
    <dl className="bsft-fields">
      {Object.entries(props.values ?? {}).map(([name, value]) => (
        <div key={name}>
          <dt>
            <Said value={name} />
            {props.suffix}
          </dt>
          <dd>
            <Said value={value} />
          </dd>
        </div>
      ))}
    </dl>
  );
}

export function Problem(props: { error: string }): JSX.Element {
  return (
    <div className="bsft-problem" role="alert">
      <Said value={props.error} />
    </div>
  );
}

export function Empty(props: { children: React.ReactNode }): JSX.Element {
  return <p className="bsft-empty">{props.children}</p>;
}

/** What is inside, unless its file is not there yet: then the server's words on that. */
export function Unless(props: { missing: string | undefined; children: JSX.Element }): JSX.Element {
  return props.missing ? <Empty>{props.missing}</Empty> : props.children;
}

/** First, previous, next, last. */
export function Pager(props: {
  page: number;
  n: number;
  of: number;
  size: number;
  onPage: (page: number) => void;
  noun: string;
}): JSX.Element {
  const last = Math.max(0, Math.ceil(props.n / props.size) - 1);
  const page = Math.min(props.page, last);
  const to = (p: number) => () => props.onPage(Math.min(last, Math.max(0, p)));
  const range = props.n
    ? `${(page * props.size + 1).toLocaleString('en')}–${Math.min(props.n, (page + 1) * props.size).toLocaleString('en')}`
    : '0';
  const of = props.n === props.of ? '' : ` ${__('(%1 in all)', props.of.toLocaleString('en'))}`;
  return (
    <nav className="bsft-pager" aria-label={__('Pages')}>
      <Button label={__('First page')} onClick={to(0)} disabled={page === 0}>
        «
      </Button>
      <Button label={__('Previous page')} onClick={to(page - 1)} disabled={page === 0}>
        ‹
      </Button>
      <span aria-live="polite">
        {range} {__('of')} {props.n.toLocaleString('en')} {props.noun}
        {of}
      </span>
      <Button label={__('Next page')} onClick={to(page + 1)} disabled={page >= last}>
        ›
      </Button>
      <Button label={__('Last page')} onClick={to(last)} disabled={page >= last}>
        »
      </Button>
    </nav>
  );
}

/** What the server answers to a question that may change; the last answer stays until the next is there. */
export function useAnswer<T>(
  ask: (signal: AbortSignal) => Promise<T>,
  on: unknown[]
): { data: T | null; error: string; asking: boolean } {
  const [answer, setAnswer] = React.useState<{ data: T | null; error: string; asking: boolean }>({
    data: null,
    error: '',
    asking: true
  });
  React.useEffect(() => {
    const abort = new AbortController();
    setAnswer(before => ({ ...before, asking: true }));
    ask(abort.signal).then(
      data => !abort.signal.aborted && setAnswer({ data, error: '', asking: false }),
      error => !abort.signal.aborted && setAnswer({ data: null, error: error.message, asking: false })
    );
    return () => abort.abort();
  }, on);
  return answer;
}

const PAGES = 12; // that are kept

/** Pages of what the server has. The next one is fetched ahead; the last one shown stays until another is there. */
export function usePages<P>(
  ask: (page: number) => Promise<P>,
  of: string, // what the pages are of
  page: number,
  goesOn: (page: P) => boolean, // is there one after it?
  grows: (page: P) => boolean // is the server still reading?
): { data: P | null; error: string; asking: boolean } {
  type Entry = { data?: P; error?: string; done: Promise<void> };
  const known = React.useRef(new Map<string, Entry>());
  const last = React.useRef<P | null>(null);
  const [, redraw] = React.useReducer((n: number) => n + 1, 0);
  const [round, again] = React.useReducer((n: number) => n + 1, 0);
  const name = (n: number) => `${n} ${of}`;
  const fetched = (n: number): Entry => {
    const old = known.current.get(name(n));
    if (old && old.error === undefined) {
      return old;
    }
    const entry: Entry = {
      done: ask(n).then(
        data => void (entry.data = data),
        error => void (entry.error = (error as Error).message)
      )
    };
    known.current.set(name(n), entry);
    [...known.current.keys()].slice(0, -PAGES).forEach(key => known.current.delete(key));
    return entry;
  };
  React.useEffect(() => {
    let over = false;
    const entry = fetched(page);
    void entry.done.then(() => {
      if (!over) {
        last.current = entry.data ?? last.current;
        redraw();
        if (entry.data && grows(entry.data)) {
          known.current.clear();
          setTimeout(() => over || again(), 100);
        } else if (entry.data && goesOn(entry.data)) {
          void fetched(page + 1);
        }
      }
    });
    return () => void (over = true);
  }, [of, page, round]);
  const entry = known.current.get(name(page));
  const data = entry?.data ?? last.current;
  React.useEffect(() => void (last.current = data));
  return { data, error: entry?.error ?? '', asking: !entry?.data && !entry?.error };
}

/** A value that follows another once that has stood still. */
export function useLate<T>(value: T, wait = 250): T {
  const [late, setLate] = React.useState(value);
  React.useEffect(() => {
    const timer = setTimeout(() => setLate(value), wait);
    return () => clearTimeout(timer);
  }, [value, wait]);
  return late;
}

export function Search(props: {
  value: string;
  onChange: (value: string) => void;
  label: string;
}): JSX.Element {
  return (
    <input
      type="search"
      className="bsft-search"
      placeholder={props.label}
      aria-label={props.label}
      value={props.value}
      onChange={event => props.onChange(event.target.value)}
    />
  );
}

export function Choice(props: {
  value: string;
  options: [string, string][];
  label: string;
  onChange: (value: string) => void;
}): JSX.Element {
  return (
    <select
      className="bsft-choice"
      aria-label={props.label}
      title={props.label}
      value={props.value}
      onChange={event => props.onChange(event.target.value)}
    >
      {props.options.map(([value, label]) => (
        <option key={value} value={value}>
          {visible(label)}
        </option>
      ))}
    </select>
  );
}
