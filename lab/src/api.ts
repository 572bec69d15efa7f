/** The server's side: requests, and news over a websocket. */
import { URLExt } from '@jupyterlab/coreutils';
import { ServerConnection } from '@jupyterlab/services';
import { ISignal, Signal } from '@lumino/signaling';
import { ICard, INews, IView } from './types';

export type Asked = { [name: string]: string | number | boolean | undefined };

export class Api {
  constructor(readonly settings: ServerConnection.ISettings) {}

  url(...parts: string[]): string {
    return URLExt.join(this.settings.baseUrl, 'bsft/api', ...parts.map(encodeURIComponent));
  }

  /** The answer to a request. Rejects with the server's own words. */
  async ask<T>(parts: string[], asked: Asked = {}, method = 'GET', signal?: AbortSignal): Promise<T> {
    const query = new URLSearchParams();
    for (const [name, value] of Object.entries(asked)) {
      if (value !== undefined && value !== '') {
        query.set(name, value === true ? '1' : String(value));
      }
    }
    const url = this.url(...parts) + (String(query) ? `?${query}` : '');
    const reply = await ServerConnection.makeRequest(url, { method, signal }, this.settings);
    const data = await reply.json().catch(() => ({}));
    if (!reply.ok) {
      throw new Error(
        typeof data.message === 'string' ? data.message : `${reply.status} ${reply.statusText}`
      );
    }
    return data as T;
  }

  run<T>(key: string, what: string[] = [], asked: Asked = {}, signal?: AbortSignal): Promise<T> {
    return this.ask<T>(['runs', key, ...what], asked, 'GET', signal);
  }

  stop(key: string): Promise<unknown> {
    return this.ask(['runs', key, 'stop'], {}, 'POST');
  }

  delete(key: string): Promise<unknown> {
    return this.ask(['runs', key], {}, 'DELETE');
  }
}

/** All cards, and the views of the runs that are open, kept up to date. */
export class Runs {
  readonly cards = new Map<string, ICard>();
  readonly views = new Map<string, IView>();
  loaded = false;
  connected = false;

  constructor(readonly api: Api) {
    this.connect();
  }

  /** How often to tell, in seconds, and into which folders to look, too. */
  wish(every: number, folders: string[]): void {
    this._wish = { every, folders };
    this.tell();
  }

  /** Emits when cards or the connection change. */
  get changed(): ISignal<this, void> {
    return this._changed;
  }

  /** Emits a card that is another now, with the one before. */
  get turned(): ISignal<this, { before?: ICard; after: ICard }> {
    return this._turned;
  }

  /** Emits the key of a run whose view is new. */
  get viewed(): ISignal<this, string> {
    return this._viewed;
  }

  /** Keep the view of a run up to date until the function that is returned is called. */
  watch(key: string): () => void {
    this._watched.set(key, (this._watched.get(key) ?? 0) + 1);
    this.tell();
    return () => {
      const left = (this._watched.get(key) ?? 1) - 1;
      if (left) {
        this._watched.set(key, left);
      } else {
        this._watched.delete(key);
        this.views.delete(key);
      }
      this.tell();
    };
  }

  private connect(): void {
    const { wsUrl, token, appendToken, WebSocket } = this.api.settings;
    const url =
      URLExt.join(wsUrl, 'bsft/api/live') +
      (appendToken && token ? `?token=${encodeURIComponent(token)}` : '');
    const socket = new WebSocket(url);
    socket.onopen = () => {
      this._socket = socket;
      this._wait = 1000;
      this.connected = true;
      this.tell();
      this._changed.emit();
    };
    socket.onmessage = event => this.take(JSON.parse(event.data) as INews);
    socket.onclose = () => {
      this._socket = null;
      this.connected = false;
      this._changed.emit();
      setTimeout(() => this.connect(), this._wait);
      this._wait = Math.min(2 * this._wait, 30000);
    };
  }

  private tell(): void {
    if (this._socket?.readyState === 1) {
      this._socket.send(JSON.stringify({ watch: [...this._watched.keys()], ...this._wish }));
    }
  }

  private take(news: INews): void {
    if (news.first) {
      const there = new Set(news.cards?.map(c => c.key)); // it begins with all of them
      [...this.cards.keys()].filter(key => !there.has(key)).forEach(key => this.cards.delete(key));
    }
    for (const card of news.cards ?? []) {
      const before = this.cards.get(card.key);
      this.cards.set(card.key, card);
      this._turned.emit({ before, after: card });
    }
    news.gone?.forEach(key => this.cards.delete(key));
    this.loaded = true;
    for (const [key, view] of Object.entries(news.views ?? {})) {
      this.views.set(key, view);
      this._viewed.emit(key);
    }
    if (news.cards || news.gone || news.first) {
      this._changed.emit();
    }
  }

  private _socket: WebSocket | null = null;
  private _wait = 1000;
  private _wish: { every?: number; folders?: string[] } = {};
  private readonly _watched = new Map<string, number>();
  private readonly _changed = new Signal<this, void>(this);
  private readonly _turned = new Signal<this, { before?: ICard; after: ICard }>(this);
  private readonly _viewed = new Signal<this, string>(this);
}
