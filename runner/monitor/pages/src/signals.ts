/**
 * What the curves say together: a total that rises while what one cares about does not. Reasons to read completions,
 * not verdicts. The last quarter of a run is held against the one before (Welch's t), so noise alone says nothing.
 */
import type { Held } from "./metrics";
import { percent } from "./format";
import type { Reward, Series } from "./types";

/** Standard errors of the difference beyond which two quarters differ. */
const CLEAR = 2.5;
/** Values a quarter needs. */
const ENOUGH = 3;

export interface Signal {
  title: string;
  text: string;
  /** Where to look: completions in this order. */
  order: "best" | "worst" | "errors" | "duplicates";
  /** Only those whose score of this function is at most its mean of late: what scores without being good. */
  below?: { reward: string; max: number };
}

export const NAMES = ["reward", "eval/reward", "frac_reward_zero_std", "completions/mean_length", "completions/clipped_ratio"];

export function namesFor(rewards: Reward[]): string[] {
  return [...NAMES, ...rewards.flatMap((reward) => [`rewards/${reward.name}/mean`, `rewards/${reward.name}/error_rate`])];
}

export function signals(rewards: Reward[], held: Held): Signal[] {
  const trend = (name: string) => direction(held.get(name));
  const last = (name: string) => tail(held.get(name));
  const found: Signal[] = [];
  const rises = trend("reward") === "up";
  for (const reward of rewards.filter((one) => one.trusted)) {
    const its = trend(`rewards/${reward.name}/mean`);
    const mean = last(`rewards/${reward.name}/mean`);
    if (rises && its !== "up" && its !== null) found.push({ ...apart(`the trusted reward ${reward.name}`, its === "down"), ...(mean !== null && { below: { reward: reward.name, max: mean } }) });
  }
  const evaluated = trend("eval/reward");
  if (rises && evaluated !== "up" && evaluated !== null) found.push(apart("the evaluation", evaluated === "down"));
  if (trend("completions/mean_length") === "up" && trend("reward") !== "up") found.push({ title: "Completions get longer, the total does not rise", text: "The model pads. Read the longest ones.", order: "worst" });
  const idle = last("frac_reward_zero_std");
  if (idle !== null && idle > 0.8) found.push({ title: `Only ${percent(1 - idle)} of the groups teach`, text: "Rewards within a group are equal nearly everywhere: all solved, none solved, or the rewards too coarse.", order: "duplicates" });
  const cut = last("completions/clipped_ratio");
  if (cut !== null && cut > 0.2) found.push({ title: `${percent(cut)} of the completions are cut at the limit`, text: "They are scored without their end. Raise max_completion_length or reward brevity.", order: "worst" });
  for (const reward of rewards) {
    const share = last(`rewards/${reward.name}/error_rate`);
    if (share !== null && share > 0.05) found.push({ title: `${reward.name} fails on ${percent(share)} of the calls`, text: "Those completions left their groups.", order: "errors" });
  }
  return found;
}

function apart(what: string, falls: boolean): Signal {
  return { title: `The total rises, ${what} ${falls ? "falls" : "does not"}`, text: "The model may have found a way to score without doing better. Read what scores best of late.", order: "best" };
}

/** Of the last quarter against the one before; null when there are too few values to say. */
function direction(series: Series | undefined): "up" | "down" | "flat" | null {
  const values = (series?.values ?? []).filter((value) => value !== null);
  const size = Math.floor(values.length / 4);
  if (size < ENOUGH) return null;
  const [before, now] = [moments(values.slice(-2 * size, -size)), moments(values.slice(-size))];
  const error = Math.sqrt((before.variance + now.variance) / size);
  const difference = now.mean - before.mean;
  if (Math.abs(difference) <= CLEAR * error) return "flat";
  return difference > 0 ? "up" : "down";
}

function moments(values: number[]): { mean: number; variance: number } {
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
  return { mean, variance: values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / (values.length - 1) };
}

/** Mean of the last tenth, of ten values at least. */
function tail(series: Series | undefined): number | null {
  const values = (series?.values ?? []).filter((value) => value !== null);
  const some = values.slice(-Math.max(10, Math.floor(values.length / 10)));
  return some.length < 5 ? null : moments(some).mean;
}
