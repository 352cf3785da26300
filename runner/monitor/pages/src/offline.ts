/**
 * The API over a run that is in the page itself: `runner export --html`. It answers what the pages ask of one run, from
 * memory, in the form of the monitor's own answers (`runner.monitor.rollouts`), whose order and filters these are.
 */
import type { Completion, Group, LogRow, Marker, Prompt, RunDetail, Series } from "./types";

interface Held {
  home: unknown;
  run: RunDetail;
  series: Record<string, Series>;
  markers: Marker[];
  versions: Record<string, unknown>;
  examples: [id: number, prompt: string, columns: Record<string, unknown>][];
  completions: Omit<Completion, "prompt">[];
}

type Query = URLSearchParams;
type Answer = (held: Offline, query: Query, last: string) => unknown;

class Offline {
  readonly prompts: Map<number, { prompt: string; columns: Record<string, unknown> }>;
  readonly completions: Completion[];

  constructor(readonly held: Held) {
    this.prompts = new Map(held.examples.map(([id, prompt, columns]) => [id, { prompt, columns }]));
    this.completions = held.completions.map((one) => ({ ...one, prompt: this.prompts.get(one.example_id)?.prompt ?? null }));
  }

  /** Of the query's split, step, group and example. */
  of(query: Query): Completion[] {
    const wanted: [string | null, keyof Completion][] = [
      [query.get("split") ?? "train", "split"], [query.get("step"), "step"], [query.get("group_id"), "group_id"], [query.get("example_id"), "example_id"],
    ];
    return this.completions.filter((one) => wanted.every(([value, field]) => value === null || String(one[field]) === value));
  }
}

const ROUTES: Record<string, Answer> = {
  "": (held) => held.held.run,
  metrics: ({ held }, query) => {
    const names = query.get("names")?.split(",") ?? [];
    return { series: Object.fromEntries(Object.entries(held.series).filter(([name]) => names.includes(name))) };
  },
  markers: ({ held }) => held.markers,
  steps: (held, query) => ({ steps: [...new Set(held.of(query).map((one) => one.step))].sort((a, b) => a - b) }),
  prompts,
  completions,
  search: (held, query) => page("completions", held.completions.filter((one) => contains(one.completion, query.get("q"))).toReversed(), query),
  groups,
  logs,
  versions: ({ held }, _, sha256) => held.versions[sha256],
};

/** As `fetch`, for GET. */
export function offline(held: Held): (address: string) => Promise<Response> {
  const kept = new Offline(held);
  return async (address) => {
    const asked = new URL(address, "http://page");
    const [, , , first = "", id = "", part = "", last = ""] = asked.pathname.split("/").map(decodeURIComponent);
    const found = first === "runs" && id ? (id === held.run.id ? ROUTES[part]?.(kept, asked.searchParams, last) : undefined) : top(held, first);
    return found === undefined ? Response.json({ detail: "It is not in this file." }, { status: 404 }) : Response.json(found);
  };
}

function top({ home, run }: Held, name: string): unknown {
  if (name === "home") return home;
  if (name === "runs") return { runs: [run], next: null };
  return undefined;
}

function page<T>(field: string, rows: T[], query: Query): unknown {
  const from = Number(query.get("after") ?? 0);
  const end = from + Number(query.get("limit") ?? 50);
  return { [field]: rows.slice(from, end), next: end < rows.length ? String(end) : null };
}

/** Case counts when there is a capital letter. */
function contains(text: string, wanted: string | null): boolean {
  if (!wanted) return true;
  return wanted === wanted.toLowerCase() ? text.toLowerCase().includes(wanted) : text.includes(wanted);
}

function prompts(held: Offline, query: Query): unknown {
  const of = new Map<number, Completion[]>();
  for (const one of held.of(query)) of.set(one.example_id, [...(of.get(one.example_id) ?? []), one]);
  const rows = [...of].sort(([a], [b]) => a - b).map(([id, members]): Prompt => {
    const { prompt = "", columns = {} } = held.prompts.get(id) ?? {};
    const rewards = members.map((one) => one.reward).filter((reward) => reward !== null);
    const steps = members.map((one) => one.step);
    return {
      example_id: id, prompt, columns, prompt_length: prompt.length, completions: members.length,
      first_step: Math.min(...steps), last_step: Math.max(...steps),
      best: rewards.length ? Math.max(...rewards) : null, mean: mean(rewards),
    };
  });
  return page("prompts", rows.filter((row) => contains(row.prompt, query.get("q"))), query);
}

function mean(values: number[]): number | null {
  return values.length ? values.reduce((sum, value) => sum + value, 0) / values.length : null;
}

function completions(held: Offline, query: Query): unknown {
  const [order, reward] = [query.get("order") ?? "step", query.get("reward")];
  const bound = (name: string) => (query.get(name) === null ? null : Number(query.get(name)));
  const [least, most] = [bound("min"), bound("max")];
  const value = (one: Completion) => (reward ? one.scores[reward]?.value ?? null : one.reward);
  const within = (one: Completion) => (least === null || (value(one) ?? -Infinity) >= least) && (most === null || (value(one) ?? Infinity) <= most);
  const rows = held.of(query).filter((one) => contains(one.completion, query.get("q")) && within(one));
  return page("completions", ordered(rows, order), query);
}

function ordered(rows: Completion[], order: string): Completion[] {
  if (order === "errors") return rows.filter((one) => Object.values(one.scores).some((score) => !["ok", "none"].includes(score.outcome))).toReversed();
  if (order === "step") return rows;
  const sign = order === "best" ? -1 : 1;
  return rows.filter((one) => one.reward !== null).toSorted((a, b) => sign * ((a.reward ?? 0) - (b.reward ?? 0) || a.id - b.id));
}

function groups(held: Offline, query: Query): unknown {
  const of = new Map<number, Completion[]>();
  for (const one of held.of(query)) of.set(one.group_id, [...(of.get(one.group_id) ?? []), one]);
  return {
    groups: [...of].map(([id, members]): Group => {
      const rewards = members.map((one) => one.reward).filter((reward) => reward !== null);
      const [low, high] = [Math.min(...rewards), Math.max(...rewards)];
      return {
        group_id: id, example_id: members[0]?.example_id ?? 0, prompt: members[0]?.prompt ?? null, completions: members.length,
        scored: rewards.length, reward_mean: mean(rewards), reward_min: rewards.length ? low : null, reward_max: rewards.length ? high : null,
        signal: high - low > 1e-8,
      };
    }),
  };
}

function logs(held: Offline, query: Query): unknown {
  const [name, outcome, step] = [query.get("name"), query.get("outcome"), query.get("step")];
  const rows = held.completions.flatMap((one) =>
    Object.entries(one.scores).map(([by, score]): LogRow => ({
      rollout_id: one.id, step: one.step, split: one.split, name: by, version: one.reward_version, outcome: score.outcome, error: score.error, output: score.output,
    })),
  );
  const failed = (row: LogRow) => !["ok", "none"].includes(row.outcome);
  const wanted = (row: LogRow) =>
    (outcome === "failed" ? failed(row) : row.error !== null || row.output !== null) && (!name || row.name === name) && (!step || String(row.step) === step) &&
    (!outcome || outcome === "failed" || row.outcome === outcome) && contains(`${row.error ?? ""}\n${row.output ?? ""}`, query.get("q"));
  return page("logs", rows.filter(wanted), query);
}
