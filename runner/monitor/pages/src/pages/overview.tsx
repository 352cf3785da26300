/** The run in graphs. First whether there is any signal, then the rewards, then the model's health, then speed. */
import { useMemo } from "preact/hooks";
import { url, useApi } from "../api";
import { Chart, type Line } from "../chart";
import { number, percent } from "../format";
import { type Held, useMetrics } from "../metrics";
import { Empty, Failed, Loading } from "../parts";
import { complement, type Definition, ends, sections } from "../plots";
import { go } from "../route";
import { Inline } from "../text";
import type { Marker, RunDetail } from "../types";

export function Overview({ run }: { run: RunDetail }) {
  const names = run.metric_names.join("\u0000");
  const parts = useMemo(() => sections(run.rewards, run.metric_names), [names, run.rewards.length]);
  const wanted = useMemo(() => asked(parts.flatMap((part) => part.charts), run.metric_names), [parts]);
  const metrics = useMetrics(run.id, wanted, run.attempts.length);
  const markers = useApi<Marker[]>(url(["runs", run.id, "markers"]), run.id);
  if (run.metric_names.length === 0) return <Waiting run={run} />;
  const show = (step: number) => go(["runs", run.id, "completions"], { view: "groups", step });
  return (
    <>
      {metrics.error && <Failed error={metrics.error} what="metrics" />}
      {!metrics.loaded && <Loading />}
      <Learnt run={run} series={metrics.series} />
      <Marks markers={markers.data ?? []} />
      {parts.map((part) => (
        <section key={part.title} aria-label={part.title}>
          <h2>{part.title}</h2>
          <div class="charts">
            {part.charts.map((chart) => (
              <Drawn key={chart.title} chart={chart} series={metrics.series} markers={markers.data} show={show} />
            ))}
          </div>
        </section>
      ))}
    </>
  );
}

function Drawn(props: { chart: Definition; series: Held; markers: Marker[] | undefined; show: (step: number) => void }) {
  const { chart, series } = props;
  const held = chart.lines.map((line) => series.get(line.metric));
  const lines: Line[] = useMemo(
    () => chart.lines.map((line, n) => ({ label: line.label, series: line.complement && held[n] ? complement(held[n]) : held[n] })),
    [chart, ...held],
  );
  return <Chart title={chart.title} note={chart.note} help={chart.help} lines={lines} markers={props.markers ?? []} {...given(chart)} onStep={props.show} />;
}

function given(chart: Definition) {
  return { ...(chart.range && { range: chart.range }), ...(chart.format && { format: chart.format }) };
}

function asked(charts: Definition[], known: string[]): string[] {
  const names = new Set(charts.flatMap((chart) => chart.lines.map((line) => line.metric)));
  return known.filter((name) => names.has(name));
}

function Waiting({ run }: { run: RunDetail }) {
  return (
    <Empty title={run.state === "queued" ? "This run has not started" : "No step is done yet"}>
      <p>Graphs appear with the first step, and move by themselves. {run.state === "queued" && <>It waits: <Inline text={run.detail || "for its turn"} limit={200} />.</>}</p>
    </Empty>
  );
}

/** First and last tenth, as one would ask: has it learnt anything? */
function Learnt({ run, series }: { run: RunDetail; series: Held }) {
  const useful = ends(series.get("frac_reward_zero_std"));
  const rows = [{ name: "total_reward", metric: "reward", note: "" }, ...run.rewards.map((reward) => ({
    name: reward.name, metric: `rewards/${reward.name}/mean`, note: reward.weight === 0 ? "not optimised" : `× ${reward.weight}${reward.trusted ? ", trusted" : ""}`,
  }))];
  return (
    <div class="learnt" role="group" aria-label="First and last tenth of the run">
      {useful && (
        <div class={`tile ${1 - useful[1] < 0.2 ? "warn" : ""}`}>
          <span class="tile-name">useful groups</span>
          <span class="tile-value num">{percent(1 - useful[1])} <small class="muted">from {percent(1 - useful[0])}</small></span>
          <span class="muted">{1 - useful[1] < 0.2 ? "little left to learn from" : "their rewards differ"}</span>
        </div>
      )}
      {rows.map((row) => <Tile key={row.metric} {...row} train={ends(series.get(row.metric))} test={ends(series.get(`eval/${row.metric}`), 0)} />)}
    </div>
  );
}

function Tile(props: { name: string; note: string; train: [number, number] | null; test: [number, number] | null }) {
  const { train, test } = props;
  if (!train) return null;
  return (
    <div class="tile">
      <span class="tile-name"><Inline text={props.name} limit={30} /> <small class="muted">{props.note}</small></span>
      <span class="tile-value num">{number(train[1])} <small class="muted">from {number(train[0])}</small></span>
      <span class="muted num">{test ? `eval ${number(test[0])} → ${number(test[1])}` : "no evaluation"}</span>
    </div>
  );
}

const KINDS: Record<Marker["kind"], string> = {
  version: "reward version", checkpoint: "checkpoint", restart: "restart", alert: "alert", evaluation: "evaluation",
};

function Marks({ markers }: { markers: Marker[] }) {
  const told = markers.filter((marker) => marker.kind !== "evaluation" && marker.kind !== "checkpoint");
  const checkpoints = markers.filter((marker) => marker.kind === "checkpoint");
  if (!markers.length) return null;
  return (
    <ul class="marks" aria-label="Marks in the graphs">
      {told.map((marker, n) => (
        <li key={n} class={marker.kind}><b class="num">step {marker.step}</b> <Inline text={marker.text || KINDS[marker.kind]} limit={160} /></li>
      ))}
      {checkpoints.length > 0 && <li class="checkpoint">{checkpoints.length === 1 ? "1 checkpoint (tick at the foot)" : `${checkpoints.length} checkpoints (ticks at the foot), the last`} at step {checkpoints.at(-1)?.step}</li>}
    </ul>
  );
}

