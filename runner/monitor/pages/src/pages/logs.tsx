/** What the reward functions printed, and how they failed: by step, function and version, each beside its completion. */
import { useState } from "preact/hooks";
import { url, usePages } from "../api";
import { versionName } from "../format";
import { useKeys } from "../keys";
import { Choice, Empty, Failed, Field, Loading, More, useInView } from "../parts";
import { href, useRoute } from "../route";
import { Block, Inline, plain } from "../text";
import type { LogRow, RunDetail } from "../types";
import { outcome } from "./completions/card";
import { whole } from "./completions";

const OUTCOMES: [string, string][] = [
  ["", "any"], ["failed", "failed"], ["ok", "ok, printed something"], ["exception", "exception"], ["timeout", "timeout"], ["killed", "killed"],
  ["non_numeric", "non-numeric"], ["non_finite", "non-finite"], ["infrastructure", "infrastructure"],
];

export function Logs({ run }: { run: RunDetail }) {
  const { query } = useRoute();
  const filters = { name: query.get("name"), outcome: query.get("outcome"), step: whole(query, "step"), q: query.get("q") };
  const page = usePages<LogRow>(url(["runs", run.id, "logs"], { ...filters, limit: 200 }), "logs", run.id);
  const [at, setAt] = useState(-1);
  const [open, setOpen] = useState<Set<string>>(new Set());
  const toggle = (row: LogRow | undefined) => row && setOpen((old) => flipped(old, keyOf(row)));
  const move = (by: number) => setAt((old) => Math.max(0, Math.min(page.rows.length - 1, old + by)));
  useKeys([
    { keys: ["j", "ArrowDown"], does: "next row", run: () => move(1) },
    { keys: ["k", "ArrowUp"], does: "row before", run: () => move(-1) },
    { keys: ["Enter"], does: "opens the row", run: () => toggle(page.rows[at]) },
  ]);
  return (
    <section aria-label="Reward logs">
      <div class="row filters">
        <Choice name="name" value={filters.name ?? ""} label="function" options={[["", "any"], ...run.rewards.map((reward): [string, string] => [reward.name, plain(reward.name, 40)])]} />
        <Choice name="outcome" value={filters.outcome ?? ""} label="outcome" options={OUTCOMES} />
        <Field name="step" value={query.get("step") ?? ""} label="step" kind="number" hint="all" />
        <Field name="q" value={filters.q ?? ""} label="log contains" focusKey />
      </div>
      {page.error && <Failed error={page.error} what="reward logs" />}
      {!page.loaded && <Loading />}
      {page.loaded && page.rows.length === 0 && (page.more ? <p class="muted loading" aria-busy="true">Searching…</p> : <NoLogs filtered={Object.values(filters).some(Boolean)} />)}
      {page.rows.length > 0 && (
        <ol class="logs">
          {page.rows.map((row, n) => <Row key={keyOf(row)} run={run} row={row} chosen={n === at} open={open.has(keyOf(row))} toggle={() => toggle(row)} find={filters.q ?? ""} />)}
        </ol>
      )}
      <More more={page.more} shown={page.rows.length} />
    </section>
  );
}

function keyOf(row: LogRow): string {
  return `${row.rollout_id} ${row.name}`;
}

function flipped(set: Set<string>, key: string): Set<string> {
  const made = new Set(set);
  if (!made.delete(key)) made.add(key);
  return made;
}

function NoLogs({ filtered }: { filtered: boolean }) {
  if (filtered) return <Empty title="No log matches" />;
  return (
    <Empty title="Nothing was printed, nothing failed">
      <p>What a reward function prints appears here, beside the completion it was about: <code>print(len(completion))</code> is enough. Errors come with their traceback.</p>
    </Empty>
  );
}

interface RowProps {
  run: RunDetail;
  row: LogRow;
  chosen: boolean;
  open: boolean;
  toggle: () => void;
  find: string;
}

function Row({ run, row, chosen, open, toggle, find }: RowProps) {
  const ref = useInView<HTMLLIElement>(chosen);
  const failed = row.outcome !== "ok" && row.outcome !== "none";
  const said = row.error ?? row.output ?? "";
  return (
    <li ref={ref} class={`log ${chosen ? "chosen" : ""}`}>
      <button type="button" class="log-line" aria-expanded={open} onClick={toggle}>
        <span class="num log-step">{row.step}{row.split === "eval" && " eval"}</span>
        <span class="log-name"><Inline text={row.name} limit={40} /> <small class="muted">{versionName(row.version, run.versions)}</small></span>
        <span class={`tag ${failed ? "bad-text" : ""}`}>{outcome(row.outcome)}</span>
        <span class="mono log-text"><Inline text={failed ? lastLine(said) : said} limit={240} /></span>
      </button>
      {open && (
        <div class="log-open">
          {row.error && <Block text={row.error} find={find} label={`error of ${plain(row.name)}`} />}
          {row.output && <Block text={row.output} find={find} label={`printed by ${plain(row.name)}`} />}
          <Whose run={run.id} row={row} />
        </div>
      )}
    </li>
  );
}

function lastLine(text: string): string {
  return text.trimEnd().split("\n").at(-1) ?? "";
}

function Whose({ run, row }: { run: string; row: LogRow }) {
  const values = { view: "list", order: "step", split: row.split === "eval" ? "eval" : null, step: row.step, at: row.rollout_id };
  return <p class="links"><a href={href(["runs", run, "completions"], values)}>the completion it was about</a></p>;
}
