/** What there is and how it stands: every job with its latest run, files with errors at their lines, all runs. */
import { useState } from "preact/hooks";
import { url, useApi, usePages } from "../api";
import { ago, duration, moment, number } from "../format";
import { useKeys } from "../keys";
import { Advice, Command, Emulated, Empty, Failed, Findings, Loading, More, Progress, Sparkline, StatePill, useInView } from "../parts";
import { change, go, href, useRoute } from "../route";
import { Inline, plain } from "../text";
import type { Home, Job, Run } from "../types";

export function JobsPage({ home }: { home: Home | undefined }) {
  const { query } = useRoute();
  const job = query.get("job");
  const jobs = useApi<{ jobs: Job[] }>(url(["jobs"]), "*");
  const runs = usePages<Run>(url(["runs"], { job, limit: 50 }), "runs", "*", "before");
  const listed = (jobs.data?.jobs ?? []).toSorted((a, b) => rank(a) - rank(b) || a.name.localeCompare(b.name));
  const fresh = jobs.error?.code === "database_missing";
  return (
    <div class="page">
      <h1>Jobs</h1>
      {jobs.error && !fresh && <Failed error={jobs.error} what="jobs" />}
      {fresh && <NoJobs home={home} />}
      {!jobs.data && !jobs.error && <Loading />}
      {jobs.data && listed.length === 0 && runs.rows.length === 0 && <NoJobs home={home} />}
      <ul class="jobs">{listed.map((one) => <JobCard key={one.name} job={one} />)}</ul>
      {runs.rows.length > 0 && <Runs runs={runs.rows} job={job} more={runs.more} />}
    </div>
  );
}

/** What wants a person first: files with errors, then what trains, then the rest. */
function rank({ errors, latest_run: run }: Job): number {
  if (errors.some((finding) => finding.severity === "error")) return 0;
  if (run?.state === "running" || run?.state === "starting") return 1;
  return run?.state === "held" || run?.state === "failed" ? 2 : 3;
}

function NoJobs({ home }: { home: Home | undefined }) {
  return (
    <Empty title="No jobs here yet">
      <p>A job is a folder with a <code>job.yaml</code>, reward functions and data, inside <code>jobs/</code>{home && <> of <code>{plain(home.home)}</code></>}. Write one to start from:</p>
      <Command text="runner init --template countdown" />
      <p>Then train it in miniature on this machine, and watch it here:</p>
      <Command text="runner emulate jobs/countdown" />
    </Empty>
  );
}

function JobCard({ job }: { job: Job }) {
  const run = job.latest_run;
  return (
    <li class="card job">
      <div class="job-head">
        <h2>{run ? <a href={href(["runs", run.id])}><Inline text={job.name} limit={60} /></a> : <Inline text={job.name} limit={60} />}</h2>
        {run && <Emulated run={run} />}
        {job.path && <code class="muted"><Inline text={job.path} /></code>}
      </div>
      {job.errors.length > 0 && (
        <>
          <p class="job-broken">{job.errors.length === 1 ? "One thing keeps" : `${job.errors.length} things keep`} this file from running{run && "; the last good version of it is not affected"}.</p>
          <Findings findings={job.errors} />
        </>
      )}
      {run && <Standing run={run} />}
      {!run && job.errors.length === 0 && <p class="muted">Not run yet. <Command text={`runner emulate ${job.path}`} /></p>}
    </li>
  );
}

function Standing({ run }: { run: Run }) {
  const last = run.reward.findLast((point) => point[1] !== null)?.[1];
  return (
    <div class="standing">
      <p class="state"><StatePill state={run.state} /> <span><Inline text={run.reason_words ?? ""} limit={300} /></span></p>
      <Progress run={run} />
      <span class="reward"><Sparkline points={run.reward} label="total_reward" /> <b class="num">{number(last)}</b></span>
      <span class="muted when">{when(run)}</span>
      {run.next_action && <p class="next"><Advice text={run.next_action} /></p>}
    </div>
  );
}

function when(run: Run): string {
  if (run.started_at !== null && run.ended_at === null && run.state === "running") return `for ${duration(Date.now() / 1000 - run.started_at)}`;
  return ago(run.ended_at ?? run.started_at ?? run.created_at);
}

function Runs({ runs, job, more }: { runs: Run[]; job: string | null; more: (() => void) | null }) {
  const [row, setRow] = useState(-1);
  const [chosen, setChosen] = useState<string[]>([]);
  const choose = (id: string) => setChosen((old) => (old.includes(id) ? old.filter((one) => one !== id) : [...old, id].slice(-2)));
  const compare = () => go(["compare"], { runs: chosen.join(",") });
  const move = (by: number) => setRow((old) => Math.max(0, Math.min(runs.length - 1, old + by)));
  useKeys([
    { keys: ["j", "ArrowDown"], does: "next row", run: () => move(1) },
    { keys: ["k", "ArrowUp"], does: "row before", run: () => move(-1) },
    { keys: ["Enter"], does: "opens the row", run: () => runs[row] && go(["runs", runs[row].id]) },
    { keys: ["x"], does: "chooses the run for comparison", run: () => runs[row] && choose(runs[row].id) },
    { keys: ["c"], does: "compares the chosen runs", run: () => chosen.length === 2 && compare() },
  ]);
  return (
    <section aria-label="Runs">
      <div class="row">
        <h2>Runs {job && <>of <Inline text={job} /></>}</h2>
        {job && <button type="button" onClick={() => change({ job: null })}>all jobs</button>}
        <span class="room" />
        <button type="button" disabled={chosen.length !== 2} onClick={compare}>Compare {chosen.length === 2 ? "the two" : "two runs"}</button>
      </div>
      <div class="scroll" tabIndex={0} role="group" aria-label="Table of runs">
        <table class="rows">
          <thead>
            <tr><th scope="col"><span class="for-ears">compare</span></th><th scope="col">run</th><th scope="col">state</th><th scope="col">progress</th><th scope="col">total_reward</th><th scope="col">backend</th><th scope="col">created</th></tr>
          </thead>
          <tbody>
            {runs.map((run, n) => <RunRow key={run.id} run={run} chosen={n === row} compared={chosen.includes(run.id)} choose={choose} />)}
          </tbody>
        </table>
      </div>
      <More more={more} shown={runs.length} />
    </section>
  );
}

function RunRow(props: { run: Run; chosen: boolean; compared: boolean; choose: (id: string) => void }) {
  const { run } = props;
  const ref = useInView<HTMLTableRowElement>(props.chosen);
  return (
    <tr ref={ref} class={props.chosen ? "chosen" : ""}>
      <td><input type="checkbox" aria-label={`compare ${plain(run.id)}`} checked={props.compared} onChange={() => props.choose(run.id)} /></td>
      <td class="nowrap"><a href={href(["runs", run.id])}><Inline text={run.id} limit={60} /></a> <Emulated run={run} /></td>
      <td class="standing-words"><StatePill state={run.state} /> <span class="muted"><Inline text={run.reason_words ?? ""} limit={80} /></span></td>
      <td><Progress run={run} /></td>
      <td class="nowrap"><Sparkline points={run.reward} label="total_reward" /> <span class="num">{number(run.reward.findLast((point) => point[1] !== null)?.[1])}</span></td>
      <td>{plain(run.backend)}</td>
      <td class="muted nowrap" title={moment(run.created_at)}>{ago(run.created_at)}</td>
    </tr>
  );
}
