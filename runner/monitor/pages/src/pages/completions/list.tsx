/** Completions by reward, by error, by a text in them; those that a step's batch has more than once. */
import { type Pages, url, useApi, usePages } from "../../api";
import { useKeys } from "../../keys";
import { Choice, Empty, Failed, Field, Loading, More, useInView } from "../../parts";
import { change } from "../../route";
import { Inline, plain } from "../../text";
import type { Completion, RunDetail } from "../../types";
import { type View, whole } from ".";
import { Card, PromptText, ScoreCells, ScoreHeads } from "./card";

const ORDERS: [string, string][] = [
  ["best", "best first"], ["worst", "worst first"], ["step", "in order"], ["errors", "a reward failed"], ["latest", "a text, everywhere"], ["duplicates", "duplicates"],
];

export function ListView(props: View) {
  const { run, query, split } = props;
  const order = query.get("order") ?? "best";
  const filters = { step: whole(query, "step"), reward: query.get("reward"), min: query.get("min"), max: query.get("max"), q: query.get("q") };
  const latest = order === "latest";
  const address = latest
    ? filters.q ? url(["runs", run.id, "search"], { q: filters.q, limit: 100 }) : null
    : url(["runs", run.id, "completions"], { split, order, ...filters, limit: 100 });
  return (
    <>
      <div class="row filters">
        <Choice name="order" value={order} label="show" options={ORDERS} />
        {!latest && <Bounds run={run} query={query} any={order === "duplicates" ? "latest" : "all"} />}
        <Field name="q" value={filters.q ?? ""} label="completion contains" focusKey />
      </div>
      {address === null && <Empty title="Which text?"><p>Write it into “completion contains”. Case counts once there is a capital letter in it.</p></Empty>}
      {address === null ? null : order === "duplicates" ? <Duplicates {...props} /> : <Found key={address} {...props} address={address} find={filters.q ?? ""} />}
    </>
  );
}

function Bounds({ run, query, any }: { run: RunDetail; query: URLSearchParams; any: string }) {
  const names: [string, string][] = [["", "total"], ...run.rewards.map((reward): [string, string] => [reward.name, plain(reward.name, 40)])];
  return (
    <>
      <Field name="step" value={query.get("step") ?? ""} label="step" kind="number" hint={any} />
      <Choice name="reward" value={query.get("reward") ?? ""} label="score of" options={names} />
      <Field name="min" value={query.get("min") ?? ""} label="at least" kind="number" />
      <Field name="max" value={query.get("max") ?? ""} label="at most" kind="number" />
    </>
  );
}

function Found(props: View & { address: string; find: string }) {
  const page = usePages<Completion>(props.address, "completions", props.run.id);
  return <Browse {...props} page={page} note={() => null} />;
}

interface BrowseProps {
  run: RunDetail;
  query: URLSearchParams;
  page: Pages<Completion>;
  find: string;
  note: (one: Completion) => string | null;
}

/** Rows on the left, the chosen one on the right. */
function Browse({ run, query, page, find, note }: BrowseProps) {
  const wanted = whole(query, "at");
  const index = Math.max(0, page.rows.findIndex((one) => one.id === wanted));
  const at = page.rows[index];
  const to = (n: number) => page.rows[n] && change({ at: page.rows[n].id });
  useKeys([
    { keys: ["j", "ArrowDown"], does: "next row", run: () => (index === page.rows.length - 1 && page.more ? page.more() : to(index + 1)) },
    { keys: ["k", "ArrowUp"], does: "row before", run: () => to(index - 1) },
    { keys: ["Enter"], does: "compares it with the best of the latest step", run: () => at && change({ view: "compare", example: at.example_id, left: at.id, split: at.split, q: null }, "push") },
    { keys: ["p"], does: "the prompt over all steps", run: () => at && change({ view: "course", example: at.example_id, split: at.split, q: null }, "push") },
  ]);
  if (page.error) return <Failed error={page.error} what="completions" />;
  if (!page.loaded) return <Loading />;
  if (!at) return <Nothing query={query} searching={page.more !== null} />;
  return (
    <div class="split list">
      <div>
        <div class="scroll grid" tabIndex={0} role="group" aria-label="Table of completions">
          <table class="rows">
            <thead><tr><th scope="col" class="num">step</th><th scope="col">completion</th><ScoreHeads rewards={run.rewards} /></tr></thead>
            <tbody>{page.rows.map((one, n) => <Row key={one.id} run={run} one={one} note={note(one)} chosen={n === index} />)}</tbody>
          </table>
        </div>
        <More more={page.more} shown={page.rows.length} />
      </div>
      <div class="members">
        <PromptText text={at.prompt} example={at.example_id} />
        <Card run={run} completion={at} title={`Step ${at.step}`} find={find} links />
      </div>
    </div>
  );
}

function Row({ run, one, note, chosen }: { run: RunDetail; one: Completion; note: string | null; chosen: boolean }) {
  const ref = useInView<HTMLTableRowElement>(chosen);
  return (
    <tr ref={ref} class={chosen ? "chosen" : ""} onClick={() => change({ at: one.id })}>
      <td class="num">{one.step}</td>
      <td class="text mono">
        {note && <span class="tag">{note}</span>}{" "}
        <button type="button" class="line" aria-pressed={chosen} onClick={() => change({ at: one.id })}><Inline text={one.completion || "(empty)"} limit={140} /></button>
      </td>
      <ScoreCells completion={one} rewards={run.rewards} />
    </tr>
  );
}

function Nothing({ query, searching }: { query: URLSearchParams; searching: boolean }) {
  if (searching) return <p class="muted loading" aria-busy="true">Searching…</p>;
  const set = ["step", "reward", "min", "max", "q"].filter((name) => query.get(name));
  if (query.get("order") === "errors" && set.length === 0) return <Empty title="No reward has failed in this run"><p>A failed call would be here with its error, and its completion would have left its group.</p></Empty>;
  return (
    <Empty title="No completion matches">
      {set.length > 0 && <p><button type="button" onClick={() => change(Object.fromEntries(set.map((name) => [name, null])))}>Take the filters away</button></p>}
    </Empty>
  );
}

/** Completions that the batch of one step has more than once: what the model falls back on. */
function Duplicates(props: View) {
  const { run, split, query } = props;
  const steps = useApi<{ steps: number[] }>(url(["runs", run.id, "steps"], { split }), run.id);
  const step = whole(query, "step") ?? steps.data?.steps.at(-1) ?? null;
  const batch = useApi<{ completions: Completion[] }>(step === null ? null : url(["runs", run.id, "completions"], { split, step, limit: 500 }));
  const held = new Map<string, number>();
  for (const one of batch.data?.completions ?? []) held.set(one.completion, (held.get(one.completion) ?? 0) + 1);
  const count = (one: Completion) => held.get(one.completion) ?? 0;
  const seen = new Set<string>();
  const rows = (batch.data?.completions ?? [])
    .filter((one) => count(one) > 1 && !seen.has(one.completion) && seen.add(one.completion))
    .toSorted((a, b) => count(b) - count(a));
  if (batch.data && rows.length === 0) return <Empty title={`Step ${step}: every completion is there once`} />;
  const page = { rows, loaded: batch.data !== undefined, more: null, error: batch.error ?? steps.error };
  return <Browse {...props} page={page} find="" note={(one) => `${count(one)} ×`} />;
}
