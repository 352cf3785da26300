/** What the monitor's API answers. Names and meanings are the store's. */

export type Split = "train" | "eval";
export type State =
  | "queued" | "starting" | "running" | "held"
  | "succeeded" | "failed" | "cancelled" | "timed_out" | "superseded";

export interface Home {
  home: string;
  emulate: boolean;
  version: string;
  /** Whether the monitor asks for one; if not, everybody who reaches it has its rights. */
  token: boolean;
  rights: string[];
  /** What keeps runs' records from being taken in. */
  problems: string[];
}

export interface Finding {
  code: string;
  message: string;
  hint: string;
  field: string;
  file: string;
  line: number;
  column: number;
  excerpt: string;
  severity: "error" | "warning";
}

export interface Run {
  id: string;
  number: number;
  job: string;
  revision: string;
  backend: string;
  emulated: boolean;
  parent: string | null;
  state: State;
  reason: string | null;
  reason_words: string | null;
  next_action: string | null;
  detail: string;
  error: string | null;
  last_step: number;
  total_steps: number;
  created_at: number;
  started_at: number | null;
  ended_at: number | null;
  digest: string | null;
  digest_note: string;
  reward: [number, number | null][];
}

export interface Job {
  name: string;
  path: string;
  revision: string | null;
  state: string;
  errors: Finding[];
  seen_at: number | null;
  latest_run: Run | null;
}

export interface Reward {
  name: string;
  weight: number;
  trusted: boolean;
  on_error: string;
}

export interface Version {
  version: number;
  sha256: string;
  state: string;
  first_step: number | null;
  error: string | null;
}

export interface Alert {
  id?: number;
  step: number | null;
  at: number;
  code: string | null;
  message: string | null;
}

export interface Attempt {
  n: number;
  resumed_step: number | null;
  outcome: string | null;
  exit_code: number | null;
  started_at: number | null;
  ended_at: number | null;
}

export interface Checkpoint {
  step: number;
  bytes: number;
  kept: boolean;
}

export interface RunDetail extends Run {
  spec: Record<string, unknown>;
  differences: unknown[];
  rewards: Reward[];
  attempts: Attempt[];
  checkpoints: Checkpoint[];
  versions: Version[];
  alerts: Alert[];
  metric_names: string[];
  splits: Split[];
}

export interface Series {
  steps: number[];
  values: (number | null)[];
  lows: (number | null)[];
  highs: (number | null)[];
  nonfinite: number;
}

export interface Marker {
  step: number;
  kind: "version" | "checkpoint" | "restart" | "alert" | "evaluation";
  text: string;
}

export interface Score {
  value: number | null;
  outcome: string;
  reason: string | null;
  error: string | null;
  output: string | null;
  seconds: number;
}

export interface Completion {
  id: number;
  split: Split;
  step: number;
  group_id: number;
  idx: number;
  example_id: number;
  prompt: string | null;
  completion: string;
  n_tokens: number;
  finish_reason: string;
  reward: number | null;
  advantage: number | null;
  reward_version: string;
  scores: Record<string, Score>;
  /** Longer than what is given. */
  truncated: boolean;
}

export interface Prompt {
  example_id: number;
  prompt: string;
  columns: Record<string, unknown>;
  prompt_length: number;
  completions: number;
  first_step: number;
  last_step: number;
  best: number | null;
  mean: number | null;
}

export interface Group {
  group_id: number;
  example_id: number;
  prompt: string | null;
  completions: number;
  scored: number;
  reward_mean: number | null;
  reward_min: number | null;
  reward_max: number | null;
  signal: boolean;
}

export interface LogRow {
  rollout_id: number;
  step: number;
  split: Split;
  name: string;
  version: string;
  outcome: string;
  error: string | null;
  output: string | null;
}

export type Cursor = string | number | null;

export interface ScoreChange {
  name: string;
  values: number;
  changed: number;
  mean_before: number | null;
  mean_after: number | null;
  rank_correlation: number | null;
  group_rank_correlation: number | null;
  new_winners: number;
  gained: number;
  lost: number;
  groups: number;
}

export interface Moved {
  rollout_id: number;
  step: number;
  completion: string;
  before: number | null;
  after: number | null;
}

/** Stored completions under edited rewards. */
export interface Rescored {
  version: string;
  steps: [number, number];
  completions: number;
  changes: ScoreChange[];
  failed: Record<string, number>;
  failures: { outcome: string; error: string }[];
  points: [number | null, number | null][];
  moved: Moved[];
}

export interface LabState {
  state: "idle" | "scoring" | "done" | "failed" | "cancelled";
  done: number;
  total: number;
  error: string | null;
  result: Rescored | null;
}
