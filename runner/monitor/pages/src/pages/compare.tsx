/** Two runs: what was set differently, and how the curves went. */
import { useMemo } from "preact/hooks";
import { url, useApi } from "../api";
import { Chart } from "../chart";
import { number } from "../format";
import { useMetrics } from "../metrics";
import { Emulated, Empty, Failed, Loading, StatePill } from "../parts";
import { complement, type Definition, ends, sections } from "../plots";
import { change, href, useRoute } from "../route";
import { Inline, plain } from "../text";
import type { Run, RunDetail } from "../types";
import { shown } from "./settings";

interface Comparison {
  spec_differences: [string, unknown, unknown][];
}

export function ComparePage() {
  const { query } = useRoute();
  const [a = "", b = ""] = (query.get("runs") ?? "").split(",");
  return (
    <div class="page">
      <h1>Compare runs</h1>
      <Chooser a={a} b={b} />
      {a && b && a !== b ? <Both key={`${a},${b}`} a={a} b={b} /> : <Empty title="Choose two runs"><p>Their settings are put beside each other and their curves into the same graphs.</p></Empty>}
    </div>
  );
}

function Chooser({ a, b }: { a: string; b: string }) {
  const runs = useApi<{ runs: Run[] }>(url(["runs"], { limit: 200 }), "*");
  const choose = (first: string, second: string) => change({ runs: `${first},${second}` });
  if (runs.error) return <Failed error={runs.error} what="runs" />;
  const options = (runs.data?.runs ?? []).map((run) => <option key={run.id} value={run.id}>{plain(run.id)}{run.emulated ? " (emulated)" : ""}</option>);
  return (
    <div class="row filters">
      <label class="field"><span>first</span><select value={a} onChange={(event) => choose(event.currentTarget.value, b)}><option value="">–</option>{options}</select></label>
      <label class="field"><span>second</span><select value={b} onChange={(event) => choose(a, event.currentTarget.value)}><option value="">–</option>{options}</select></label>
    </div>
  );
}

function Both({ a, b }: { a: string; b: string }) {
  const first = useApi<RunDetail>(url(["runs", a]), a);
  const second = useApi<RunDetail>(url(["runs", b]), b);
  const compared = useApi<Comparison>(url(["compare"], { runs: `${a},${b}` }));
  const error = first.error ?? second.error ?? compared.error;
  if (error) return <Failed error={error} what="runs" />;
  if (!first.data || !second.data) return <Loading />;
  return (
    <>
      {first.data.emulated !== second.data.emulated && <p class="warn-text">One of the two is emulated: only their settings can be compared, not their figures.</p>}
      <div class="columns">{[first.data, second.data].map((run) => <RunLine key={run.id} run={run} />)}</div>
      <Differences rows={compared.data?.spec_differences ?? []} a={a} b={b} />
      <Curves a={first.data} b={second.data} />
    </>
  );
}

function RunLine({ run }: { run: RunDetail }) {
  return <p class="row"><a href={href(["runs", run.id])}><Inline text={run.id} /></a> <Emulated run={run} /> <StatePill state={run.state} /> <span class="muted num">{run.last_step}/{run.total_steps}</span></p>;
}

function Differences({ rows, a, b }: { rows: [string, unknown, unknown][]; a: string; b: string }) {
  return (
    <section aria-label="Settings">
      <h2>Settings that differ</h2>
      {rows.length === 0 && <p class="muted">None: the two had the same job.</p>}
      {rows.length > 0 && (
        <div class="scroll" tabIndex={0} role="group" aria-label="Settings that differ">
          <table class="rows">
            <thead><tr><th scope="col">setting</th><th scope="col"><Inline text={a} /></th><th scope="col"><Inline text={b} /></th></tr></thead>
            <tbody>{rows.map(([path, one, other]) => <tr key={path}><th scope="row"><Inline text={path} /></th><td class="mono"><Inline text={shown(one)} /></td><td class="mono"><Inline text={shown(other)} /></td></tr>)}</tbody>
          </table>
        </div>
      )}
    </section>
  );
}

function Curves({ a, b }: { a: RunDetail; b: RunDetail }) {
  const charts = useMemo(() => {
    const shared = a.rewards.filter((reward) => b.rewards.some((other) => other.name === reward.name));
    return sections(shared, [...a.metric_names, ...b.metric_names]).slice(0, 2).flatMap((part) => part.charts).flatMap(alone);
  }, [a.id, b.id, a.metric_names.length, b.metric_names.length]);
  const names = charts.map((chart) => chart.lines[0]?.metric ?? "");
  const ofA = useMetrics(a.id, names.filter((name) => a.metric_names.includes(name)), a.attempts.length);
  const ofB = useMetrics(b.id, names.filter((name) => b.metric_names.includes(name)), b.attempts.length);
  return (
    <section aria-label="Curves">
      <h2>Curves</h2>
      <div class="charts">
        {charts.map((chart) => {
          const line = chart.lines[0] as Definition["lines"][number];
          const of = (held: typeof ofA) => {
            const series = held.series.get(line.metric);
            return series && line.complement ? complement(series) : series;
          };
          const lines = [{ label: a.id, series: of(ofA) }, { label: b.id, series: of(ofB) }];
          const last = lines.map((one) => ends(one.series)?.[1]);
          const apart = last[0] !== undefined && last[1] !== undefined ? ` Last tenth: ${(chart.format ?? number)(last[0])} and ${(chart.format ?? number)(last[1])}.` : "";
          return <Chart key={chart.title} title={chart.title} note={chart.note} help={`${chart.help}${apart}`} lines={lines} {...(chart.range && { range: chart.range })} {...(chart.format && { format: chart.format })} />;
        })}
      </div>
    </section>
  );
}

/** A chart of each line, for two runs shall be told apart in it. */
function alone(chart: Definition): Definition[] {
  return chart.lines.map((line) => ({ ...chart, lines: [line], title: chart.lines.length > 1 ? `${chart.title}, ${line.label}` : chart.title }));
}
