/** One table for all that the server sends a page at a time: chips, search, order, pages, and rows that open. */
import React from 'react';
import { Asked } from './api';
import { __, Bar, Button, Choice, Empty, Pager, Search, shared, useLate, usePages } from './base';

export interface IPage<R> {
  rows: R[];
  n: number;
  of: number;
  read?: number | null; // how much of a long file this is made of; null: all
}

export interface IColumn<R> {
  head: string;
  cell: (row: R) => React.ReactNode;
  number?: boolean;
}

type Options = [value: string, label: string][];

/** What is in a table, and what can be asked of it. */
export interface ITable<R, P extends IPage<R>> {
  what: string; // the part of a run
  noun: string; // several rows
  search: string; // label of the search
  none: string; // where no row matches
  className?: string;
  chips: { name: string; label: string; first: string; of: (page: P) => Options };
  choices?: { name: string; label: string; of: (page: P) => Options }[]; // shown where there are two or more
  order: { label: string; of: (page: P) => Options; turns?: boolean }; // values: field, or `field↓`; turns: has a button for that
  columns: (page: P) => IColumn<R>[];
  detail: (row: R, of: { page: P; chip: string; runKey: string }) => React.ReactNode;
}

const DOWN = '↓';

interface IBody<R, P extends IPage<R>> {
  table: ITable<R, P>;
  page: P;
  chip: string;
  runKey: string;
  open: number | null;
  onOpen: (row: number | null) => void;
}

/** The rows of a page; drawn again only where they, or what is open, change. */
const Body = React.memo(function Body<R extends { row: number }, P extends IPage<R>>(
  props: IBody<R, P>
): JSX.Element {
  const { table, page, open } = props;
  const columns = table.columns(page);
  return (
    <table className={`bsft-table ${table.className ?? ''}`}>
      <thead>
        <tr>
          <th scope="col">
            <span aria-hidden="true">#</span>
            <span className="bsft-hidden">{__('row')}</span>
          </th>
          {columns.map(column => (
            <th key={column.head} scope="col">
              {column.head}
            </th>
          ))}
        </tr>
      </thead>
      <tbody>
        {page.rows.map(row => {
          const is = open === row.row;
          const turn = () => props.onOpen(is ? null : row.row);
          return (
            <React.Fragment key={row.row}>
              <tr className={is ? 'bsft-mod-open' : ''} onClick={turn}>
                <td className="bsft-number">
                  <button
                    type="button"
                    className="bsft-open"
                    aria-expanded={is}
                    aria-label={__('Open %1', row.row + 1)}
                    onClick={event => (event.stopPropagation(), turn())}
                  >
                    {(row.row + 1).toLocaleString('en')}
                  </button>
                </td>
                {columns.map(column => (
                  <td key={column.head} className={column.number ? 'bsft-number' : undefined}>
                    {column.cell(row)}
                  </td>
                ))}
              </tr>
              {is ? (
                <tr className="bsft-mod-detail">
                  <td colSpan={columns.length + 1}>{table.detail(row, props)}</td>
                </tr>
              ) : null}
            </React.Fragment>
          );
        })}
      </tbody>
    </table>
  );
}) as <R extends { row: number }, P extends IPage<R>>(props: IBody<R, P>) => JSX.Element;

export function Table<R extends { row: number }, P extends IPage<R>>(props: {
  table: ITable<R, P>;
  runKey: string;
  stamp: string; // changes when the rows may have
  more?: Asked;
  tools?: (page: P) => React.ReactNode; // beside search and order
  above?: (page: P) => React.ReactNode;
  below?: React.ReactNode;
}): JSX.Element {
  const { table, runKey } = props;
  const [chip, setChip] = React.useState(table.chips.first);
  const [chosen, setChosen] = React.useState<{ [name: string]: string }>({});
  const [search, setSearch] = React.useState('');
  const [order, setOrder] = React.useState('');
  const [at, setAt] = React.useState({ of: '', page: 0, open: null as number | null });
  const late = useLate(search);
  const size = shared.settings.rowsPerPage;
  const asked: Asked = {
    ...props.more,
    ...chosen,
    [table.chips.name]: chip,
    search: late,
    sort: order.endsWith(DOWN) ? order.slice(0, -DOWN.length) : order,
    descending: order.endsWith(DOWN),
    size
  };
  const of = JSON.stringify([asked, props.stamp]);
  const { page, open } = at.of === of ? at : { page: 0, open: null }; // other rows begin at their first page
  const { data, error, asking } = usePages<P>(
    n => shared.runs.api.run<P>(runKey, [table.what], { ...asked, page: n }),
    of,
    page,
    last => (page + 1) * size < last.n,
    last => typeof last.read === 'number'
  );
  const setOpen = React.useCallback((row: number | null) => setAt({ of, page, open: row }), [of, page]);
  if (!data) {
    return <Empty>{error || __('Reading…')}</Empty>;
  }
  const { turns } = table.order;
  const down = order.endsWith(DOWN);
  const field = turns && down ? order.slice(0, -DOWN.length) : order;
  return (
    <>
      <div className="bsft-row bsft-wrap" role="group" aria-label={table.chips.label}>
        {table.chips.of(data).map(([value, label]) => (
          <Button
            key={value}
            kind="chip"
            pressed={chip === value}
            label={label}
            onClick={() => setChip(value)}
          />
        ))}
      </div>
      <div className="bsft-row bsft-wrap">
        <Search value={search} onChange={setSearch} label={table.search} />
        {(table.choices ?? []).map(choice => {
          const options = choice.of(data);
          return options.length > 2 ? (
            <Choice
              key={choice.name}
              label={choice.label}
              value={chosen[choice.name] ?? ''}
              onChange={value => setChosen({ ...chosen, [choice.name]: value })}
              options={options}
            />
          ) : null;
        })}
        <Choice
          label={table.order.label}
          value={field}
          onChange={value => setOrder(value && turns && down ? value + DOWN : value)}
          options={table.order.of(data)}
        />
        {turns && field ? (
          <Button
            kind="chip"
            pressed={down}
            label={__('descending')}
            onClick={() => setOrder(down ? field : field + DOWN)}
          />
        ) : null}
        {props.tools?.(data)}
        <Pager
          page={page}
          n={data.n}
          of={data.of}
          size={size}
          onPage={n => setAt({ of, page: n, open: null })}
          noun={table.noun}
        />
      </div>
      {typeof data.read === 'number' ? (
        <Bar share={data.read} label={__('Reading what there is')} />
      ) : (
        props.above?.(data)
      )}
      {error ? <Empty>{error}</Empty> : null}
      <div className="bsft-scroll" aria-busy={asking}>
        <Body table={table} page={data} chip={chip} runKey={runKey} open={open} onOpen={setOpen} />
      </div>
      {data.rows.length ? props.below : <Empty>{table.none}</Empty>}
    </>
  );
}
