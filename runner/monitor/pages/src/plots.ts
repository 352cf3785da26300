/** Which graphs a run has, in which order, and how each is read. */
import { duration, percent, smallPercent } from "./format";
import type { Reward, Series } from "./types";

export interface Definition {
  title: string;
  note?: string;
  help: string;
  lines: { label: string; metric: string; complement?: boolean }[];
  range?: [number, number];
  format?: (value: number) => string;
}

export interface Section {
  title: string;
  charts: Definition[];
}

/** A share that is small when all is well: 0 to 5% are always in view. */
const SMALL_SHARE = { range: [0, 0.05] as [number, number], format: smallPercent };
const SHARE = { range: [0, 1] as [number, number], format: percent };

function both(metric: string): Definition["lines"] {
  return [{ label: "train", metric }, { label: "eval", metric: `eval/${metric}` }];
}

const USEFUL: Definition = {
  title: "Useful groups",
  help: "Share of completions in groups whose rewards differ. Only these teach: a group with equal rewards has no advantage. Long below 20%: the prompts are too easy or too hard, or the rewards too coarse.",
  lines: [{ label: "train", metric: "frac_reward_zero_std", complement: true }],
  ...SHARE,
};
const TOTAL: Definition = {
  title: "total_reward",
  help: "Weighted sum of the rewards, mean of the step. It should rise, often only after some 40 steps and unevenly; eval, on held-out prompts, should follow.",
  lines: both("reward"),
};
const TOTAL_STD: Definition = {
  title: "total_reward_std",
  help: "Spread of the total over the step's completions, between prompts too. High at first is normal. Falling while the total stays flat: the model has settled on one kind of answer.",
  lines: both("reward_std"),
};

function ofReward(reward: Reward): Definition {
  const role = reward.trusted
    ? "Trusted: what you really care about. If total_reward rises and this does not, read the completions."
    : reward.weight === 0
      ? "Recorded only, not optimised."
      : "Format-like rewards move first, the task later. Flat or falling: look into the reward logs.";
  const weight = reward.weight === 0 ? "not optimised" : `× ${reward.weight}`;
  return { title: reward.name, note: `${weight}${reward.trusted ? ", trusted" : ""}`, help: role, lines: both(`rewards/${reward.name}/mean`) };
}

function health(rewards: Reward[]): Definition[] {
  return [
    { title: "KL", help: "How far the policy is from the reference model, a token. A slow rise is learning; a jump means it runs away: lower the learning rate or raise beta.", lines: [{ label: "train", metric: "kl" }] },
    { title: "Entropy", help: "How undecided the model is, a token. A slow fall is learning. Near 0 it tries nothing new any more, and groups stop differing.", lines: [{ label: "train", metric: "entropy" }] },
    { title: "Clipped updates", help: "Share of tokens whose update hit the clip range. 0 when every batch is used once; steadily above 20%: the steps are too big.", lines: [{ label: "either side", metric: "clip_ratio/region_mean" }], ...SMALL_SHARE },
    { title: "Completion length", help: "Tokens. Growing while the rewards don't: the model pads. All near the limit: see truncated.", lines: [{ label: "mean", metric: "completions/mean_length" }, { label: "longest", metric: "completions/max_length" }, { label: "shortest", metric: "completions/min_length" }, { label: "eval mean", metric: "eval/completions/mean_length" }] },
    { title: "Truncated", help: "Share cut at max_completion_length: they never came to their end. Above a few per cent, raise the limit or reward brevity.", lines: both("completions/clipped_ratio"), ...SMALL_SHARE },
    { title: "Reward errors", help: "Share of calls that failed. An error is not a zero: the completion leaves its group. The reward logs have the tracebacks.", lines: rewards.map((reward) => ({ label: reward.name, metric: `rewards/${reward.name}/error_rate` })), ...SMALL_SHARE },
    { title: "Reward latency", help: "Time the rewards took for the whole batch. The model waits meanwhile.", lines: both("time/reward"), format: duration },
  ];
}

const SPEED: Definition[] = [
  { title: "Time of a step", help: "Where the time goes. Generation usually takes most of it; if rewards do, make them faster or more parallel.", lines: [{ label: "whole step", metric: "step_time" }, { label: "generate", metric: "time/generate" }, { label: "train", metric: "time/train" }, { label: "rewards", metric: "time/reward" }], format: duration },
  { title: "Tokens a second", help: "Generated tokens. A slow fall usually means longer completions.", lines: [{ label: "generated", metric: "time/tokens_per_second" }] },
];

const OPTIMISER: Definition[] = [
  { title: "Loss", help: "Near 0 by construction in GRPO; it does not show learning. Watch it for NaN only.", lines: [{ label: "train", metric: "loss" }] },
  { title: "Gradient norm", help: "Before clipping. Spikes that stay: a lower learning rate.", lines: [{ label: "train", metric: "grad_norm" }] },
  { title: "Learning rate", help: "As the schedule has it.", lines: [{ label: "train", metric: "learning_rate" }] },
];

export function sections(rewards: Reward[], names: string[]): Section[] {
  const known = new Set(names);
  const made: Section[] = [
    { title: "Reward", charts: [USEFUL, TOTAL, TOTAL_STD, ...rewards.map(ofReward)] },
    { title: "Health", charts: health(rewards).filter((chart) => chart.lines.some((line) => known.has(line.metric))) },
    { title: "Speed", charts: SPEED },
    { title: "Optimiser", charts: OPTIMISER },
  ];
  const own = others(made, names);
  return own.length ? [...made, { title: "Recorded by the rewards", charts: own }] : made;
}

/** Metrics that a reward function recorded itself. */
function others(made: Section[], names: string[]): Definition[] {
  const shown = new Set(made.flatMap((section) => section.charts.flatMap((chart) => chart.lines.map((line) => line.metric))));
  const standard = /^(eval\/)?(frac_reward_zero_std|(completions|clip_ratio|time)\/.*|rewards\/.*\/(mean|std|error_rate)|step_time|kl|entropy|loss|epoch|num_tokens)$/;
  return names
    .filter((name) => !shown.has(name) && !standard.test(name) && !name.startsWith("eval/"))
    .map((name) => ({ title: name, help: "Recorded by a reward function or by the trainer.", lines: both(name) }));
}

export function complement(series: Series): Series {
  const turn = (values: (number | null)[]) => values.map((value) => (value === null ? null : 1 - value));
  return { ...series, values: turn(series.values), lows: turn(series.highs), highs: turn(series.lows) };
}

/** Mean of the first and of the last tenth of a series. */
export function ends(series: Series | undefined, share = 0.1): [number, number] | null {
  const values = (series?.values ?? []).filter((value) => value !== null);
  if (!values.length) return null;
  const some = Math.max(1, Math.floor(values.length * share));
  const mean = (part: number[]) => part.reduce((sum, value) => sum + value, 0) / part.length;
  return [mean(values.slice(0, some)), mean(values.slice(-some))];
}
