/** A run's series, kept and brought forward: after the first answer only what came since is asked for. */
import { useEffect, useRef, useState } from "preact/hooks";
import { ApiError, get, url } from "./api";
import { onChange } from "./live";
import type { Series } from "./types";

/** A graph is some 400 wide. */
const POINTS = 400;
export type Held = Map<string, Series>;

interface Table {
  /** Steps in a bucket. */
  size: number;
  series: Held;
}

const NONE: Table = { size: 1, series: new Map() };

export interface Metrics {
  series: Held;
  loaded: boolean;
  error: ApiError | undefined;
}

/** `epoch` changes when what is known may have been taken back, as by a resume from an earlier step. */
export function useMetrics(run: string, names: string[], epoch: number): Metrics {
  const [state, setState] = useState<Metrics>({ series: new Map(), loaded: false, error: undefined });
  const busy = useRef<"no" | "yes" | "again">("no");
  const held = useRef<Table>(NONE);
  const asked = names.join(",");

  useEffect(() => {
    const abort = new AbortController();
    held.current = NONE;
    busy.current = "no";
    const load = async (): Promise<void> => {
      if (busy.current !== "no") return void (busy.current = "again");
      busy.current = "yes";
      try {
        held.current = await forward(run, asked, held.current, abort.signal);
        setState({ series: held.current.series, loaded: true, error: undefined });
      } catch (error) {
        if (error instanceof ApiError) setState((old) => ({ ...old, loaded: true, error }));
      }
      const again = (busy.current as string) === "again" && !abort.signal.aborted;
      busy.current = "no";
      if (again) await load();
    };
    if (asked) void load();
    const stop = onChange(run, () => asked && void load());
    return () => {
      abort.abort();
      stop();
    };
  }, [run, asked, epoch]);
  return state;
}

async function forward(run: string, names: string, known: Table, signal: AbortSignal): Promise<Table> {
  const last = Math.max(-1, ...[...known.series.values()].map((series) => series.steps.at(-1) ?? -1));
  const most = Math.max(0, ...[...known.series.values()].map((series) => series.steps.length));
  const since = last >= 0 && most < POINTS ? { from: last - (last % known.size), size: known.size } : {};
  const answer = await get<{ size: number; series: Record<string, Series> }>(url(["runs", run, "metrics"], { names, ...since, points: POINTS }), signal);
  const made = new Map("from" in since ? known.series : []);
  for (const [name, series] of Object.entries(answer.series)) made.set(name, joined(made.get(name), series));
  return { size: answer.size, series: made };
}

function joined(old: Series | undefined, fresh: Series): Series {
  if (!old || fresh.steps.length === 0) return old ?? fresh;
  const kept = old.steps.filter((step) => step < (fresh.steps[0] as number)).length;
  const both = <T>(a: T[], b: T[]) => [...a.slice(0, kept), ...b];
  return {
    steps: both(old.steps, fresh.steps),
    values: both(old.values, fresh.values),
    lows: both(old.lows, fresh.lows),
    highs: both(old.highs, fresh.highs),
    nonfinite: old.nonfinite + fresh.nonfinite,
  };
}
