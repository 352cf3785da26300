/** Things a person should see, with the completions to look at. */
import { url, useApi } from "../api";
import { ago, moment } from "../format";
import { Empty, Failed, Loading } from "../parts";
import { href } from "../route";
import { Inline } from "../text";
import type { Alert, Run, RunDetail } from "../types";

export function RunAlerts({ run }: { run: RunDetail }) {
  if (run.alerts.length === 0) return <NoAlerts />;
  return <ul class="alerts">{run.alerts.toReversed().map((alert, n) => <One key={n} alert={alert} run={run.id} />)}</ul>;
}

function NoAlerts() {
  return (
    <Empty title="No alerts">
      <p>Here appears what deserves a look while the run goes on: the total rises while the trusted reward or the evaluation does not, groups stop differing, completions get longer and longer, a reward fails more often.</p>
      <p>An alert is a reason to read completions, not a verdict. Mark the reward you really care about with <code>trusted: true</code>, so that the others are compared with it.</p>
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
      {runs.data?.runs.length === 0 && <NoAlerts />}
      {runs.data?.runs.map((run) => <OfRun key={run.id} id={run.id} />)}
    </div>
  );
}

function OfRun({ id }: { id: string }) {
  const run = useApi<RunDetail>(url(["runs", id]), id);
  if (!run.data) return null;
  return (
    <section aria-label={`alerts of ${id}`}>
      <h2><a href={href(["runs", id, "alerts"])}><Inline text={id} /></a> {run.data.alerts.length === 0 && <small class="muted">no alerts</small>}</h2>
      {run.data.alerts.length > 0 && <RunAlerts run={run.data} />}
    </section>
  );
}
