/** All completions of one prompt, so that sliders and arrows move without asking the server. */
import { useEffect, useMemo } from "preact/hooks";
import { url, usePages } from "../../api";
import type { Completion, Split } from "../../types";

const MOST = 4000;

export interface OfExample {
  completions: Completion[];
  steps: number[];
  byStep: Map<number, Completion[]>;
  loaded: boolean;
  /** Whether there are more than can be held at once. */
  cut: boolean;
  error: ReturnType<typeof usePages>["error"];
}

export function useExample(run: string, split: Split, example: number | null): OfExample {
  const address = example === null ? null : url(["runs", run, "completions"], { split, example_id: example, order: "step", limit: 500 });
  const page = usePages<Completion>(address, "completions", run);
  useEffect(() => {
    if (page.more && page.rows.length < MOST) page.more();
  }, [page.rows.length, page.more === null]);
  return useMemo(() => {
    const byStep = new Map<number, Completion[]>();
    for (const one of page.rows) byStep.set(one.step, [...(byStep.get(one.step) ?? []), one]);
    const steps = [...byStep.keys()].sort((a, b) => a - b);
    const cut = page.more !== null && page.rows.length >= MOST;
    return { completions: page.rows, steps, byStep, loaded: page.loaded && (page.more === null || cut), cut, error: page.error };
  }, [page.rows, page.loaded, page.more === null, page.error]);
}

/** The one with the highest total; the first of equals. */
export function best(completions: Completion[]): Completion | undefined {
  return completions.reduce<Completion | undefined>((top, one) => (top === undefined || (one.reward ?? -Infinity) > (top.reward ?? -Infinity) ? one : top), undefined);
}
