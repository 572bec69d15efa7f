/** What the server sends: see nbs/lab. Words and numbers are Python's; nothing is worked out here. */

export type Status =
  'running' | 'finished' | 'stopped' | 'failed' | 'died' | 'trained' | 'unreadable' | 'unknown';

export interface ILive {
  step: string;
  share: number | null;
  left: string;
  cost: string;
  said: string;
  line: string;
  warning: string;
}

export interface ICard {
  key: string;
  id: string;
  status: Status;
  path: string;
  where: string;
  program: string;
  target: string;
  began: number | null;
  seconds: number;
  took: string;
  scores: { [which: string]: { score: number; said: string } };
  error: string;
  code: string;
  live: ILive | null;
}

export interface IStep {
  name: string;
  how: 'done' | 'now' | 'stopped' | 'broken' | 'ahead';
  said: string;
  took: string;
  share: number | null;
  left: string;
}

export type Points = [number, number][];
export type Curves = { [name: string]: Points };

export interface IState {
  stage: string;
  status: string;
  tried: number;
  kept: number;
  again: number;
  reasons: { [reason: string]: number };
  tokens: number;
  paid: number | null;
  funnel: { [stage: string]: { [predictor: string]: number } };
  curves: { [model: string]: Curves };
  scores: { [which: string]: { score: number; n: number | null } };
  error: string;
  note: string;
  reused: string;
}

export interface IView {
  card: ICard;
  now: number;
  read: number | null; // how much of the log this is made of; null: all
  steps: IStep[];
  state: IState;
  warnings: string[];
  missing: { [file: string]: string };
}

export interface IVerdict {
  decision: string;
  words: string[];
  n: number;
  columns: {
    [which: string]: { score: number | null; interval: [number, number] | null; n: number; failed: number };
  };
}

export type Values = { [name: string]: unknown };

export interface IAttempt {
  row: number;
  outcome: string;
  score: number | null;
  inputs: Values;
  prediction: Values;
  error: string;
  calls: number;
}

export interface ICall {
  predictor: string;
  inputs: Values;
  outputs: Values;
}

export interface IAttemptFull {
  row: number;
  example: string;
  inputs: Values;
  prediction: Values;
  calls: ICall[];
  score: number | null;
  kept: boolean;
  reason: string;
  error: string | null;
}

export interface IAttempts {
  rows: IAttempt[];
  n: number;
  of: number;
  read: number | null;
  outcomes: { [outcome: string]: number };
  predictors: { [name: string]: number };
}

export interface IPair {
  row: number;
  example: string;
  predictor: string;
  prompt: string;
  completion: string;
  score: number | null;
  prompt_tokens: number;
  completion_tokens: number;
  tokens?: { prompt: [number, string][]; completion: [number, string][] } | null;
}

export interface IPairs {
  rows: IPair[];
  n: number;
  of: number;
  predictors: { [name: string]: number };
  splits: { [split: string]: number };
}

export interface IAnswer {
  score: number | null;
  right: boolean | null;
  latency: number | null;
  tokens: number | null;
  cost: number | null;
  cached: number | null;
  outputs: Values;
  diff: { [name: string]: [string, string][] };
  error: string | null;
}

export interface IRow {
  row: number;
  example: string;
  inputs: Values;
  labels: Values;
  answers: { [column: string]: IAnswer | null };
  calls?: { [column: string]: ICall[] };
}

export interface ICompare {
  rows: IRow[];
  n: number;
  of: number;
  filters: { [filter: string]: number };
  columns: string[];
  fields: string[];
}

export interface ISlice {
  value: string;
  n: number;
  wins: number;
  losses: number;
  score: number | null;
  against: number | null;
  rate: number | null;
  low: number;
  high: number;
}

export interface ISetting {
  name: string;
  value: unknown;
  other?: unknown;
  differs?: boolean;
}

export interface INews {
  first?: boolean; // forget what was there before
  cards?: ICard[];
  gone?: string[];
  views?: { [key: string]: IView };
}
