/** Things a person should see, with the completions to look at. */
import { url, useApi } from "../api";
import { ago, moment } from "../format";
import { useMetrics } from "../metrics";
import { Empty, Failed, Loading } from "../parts";
import { href } from "../route";
import { namesFor, type Signal, signals } from "../signals";
import { Inline } from "../text";
import type { Alert, Run, RunDetail } from "../types";

export function RunAlerts({ run, brief = false }: { run: RunDetail; brief?: boolean }) {
  const wanted = namesFor(run.rewards).filter((name) => run.metric_names.includes(name));
  const metrics = useMetrics(run.id, wanted, run.attempts.length);
  const said = signals(run.rewards, metrics.series);
  if (wanted.length > 0 && !metrics.loaded) return <Loading />;
  if (run.alerts.length === 0 && said.length === 0) return <NoAlerts brief={brief} />;
  return (
    <>
      {said.length > 0 && (
        <section aria-label="What the curves say">
          <h2>What the curves say</h2>
          <ul class="alerts">{said.map((signal) => <Said key={signal.title} signal={signal} run={run} />)}</ul>
        </section>
      )}
      {run.alerts.length > 0 && (
        <section aria-label="Alerts of the run">
          <h2>What the run reported</h2>
          <ul class="alerts">{run.alerts.toReversed().map((alert, n) => <One key={n} alert={alert} run={run.id} />)}</ul>
        </section>
      )}
    </>
  );
}

function Said({ signal, run }: { signal: Signal; run: RunDetail }) {
  const below = signal.below && { reward: signal.below.reward, max: signal.below.max.toFixed(3) };
  const query = { view: "list", order: signal.order, step: signal.order === "errors" ? null : run.last_step, ...below };
  return (
    <li class="card">
      <p><strong><Inline text={signal.title} limit={200} /></strong></p>
      <p>{signal.text}</p>
      <p class="links"><a href={href(["runs", run.id, "completions"], query)}>{below ? `best totals with a low ${below.reward}` : "the completions to read"}</a><a href={href(["runs", run.id])}>the graphs</a></p>
    </li>
  );
}

function NoAlerts({ brief }: { brief: boolean }) {
  if (brief) return <p class="muted">Nothing stands out.</p>;
  return (
    <Empty title="Nothing stands out">
      <p>Here appears what deserves a look: the total rises while a trusted reward or the evaluation does not, few groups teach, completions grow without gain or are cut, a reward fails often. And what the run itself reports.</p>
      <p>Each is a reason to read completions, not a verdict. Mark the reward you really care about with <code>trusted: true</code>, so that the total is held against it.</p>
    </Empty>
  );
}

function One({ alert, run }: { alert: Alert; run: string }) {
  const step = alert.step;
  const list = (order: string, at: number) => href(["runs", run, "completions"], { view: "list", step: at, order });
  return (
    <li class="card">
      <p class="row"><span class="tag warn-text"><Inline text={alert.code ?? "alert"} /></span> {step !== null && <b class="num">step {step}</b>} <span class="muted" title={moment(alert.at)}>{ago(alert.at)}</span></p>
      <p class="prewrap"><Inline text={alert.message ?? ""} limit={1000} /></p>
      {step !== null && (
        <p class="links">
          <a href={list("best", step)}>best completions of the step</a>
          <a href={list("worst", step)}>worst</a>
          <a href={list("duplicates", step)}>duplicates</a>
          <a href={href(["runs", run, "completions"], { view: "groups", step })}>its groups</a>
        </p>
      )}
    </li>
  );
}

export function AlertsPage() {
  const runs = useApi<{ runs: Run[] }>(url(["runs"], { limit: 30 }), "*");
  return (
    <div class="page">
      <h1>Alerts</h1>
      <p class="muted">Of the latest {runs.data?.runs.length ?? 30} runs.</p>
      {runs.error && <Failed error={runs.error} what="runs" />}
      {!runs.data && !runs.error && <Loading />}
      {runs.data?.runs.length === 0 && <NoAlerts brief={false} />}
      {runs.data?.runs.map((run) => <OfRun key={run.id} id={run.id} />)}
    </div>
  );
}

function OfRun({ id }: { id: string }) {
  const run = useApi<RunDetail>(url(["runs", id]), id);
  if (!run.data) return null;
  return (
    <section aria-label={`alerts of ${id}`}>
      <h2><a href={href(["runs", id, "alerts"])}><Inline text={id} /></a></h2>
      <RunAlerts run={run.data} brief />
    </section>
  );
}
