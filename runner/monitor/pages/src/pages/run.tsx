/** One run: its standing, what can be done with it, and the pages about it. */
import { useState } from "preact/hooks";
import { ApiError, post, url, useApi } from "../api";
import { Confirm } from "../dialog";
import { duration, moment } from "../format";
import { late } from "../late";
import { Advice, Emulated, Empty, Failed, Loading, Progress, StatePill } from "../parts";
import { go, href } from "../route";
import { Block, Inline, plain } from "../text";
import type { RunDetail } from "../types";
import { useKeys } from "../keys";
import { RunAlerts } from "./alerts";
import { Overview } from "./overview";

const Completions = late(() => import("./completions").then((module) => module.Completions));
const Logs = late(() => import("./logs").then((module) => module.Logs));
const Settings = late(() => import("./settings").then((module) => module.Settings));
const Versions = late(() => import("./versions").then((module) => module.Versions));

const TABS: [string, string][] = [
  ["overview", "Overview"], ["completions", "Completions"], ["logs", "Reward logs"],
  ["rewards", "Reward lab"], ["alerts", "Alerts"], ["settings", "Settings"],
];

export function RunPage({ id, tab, rights }: { id: string; tab: string; rights: string[] }) {
  const run = useApi<RunDetail>(url(["runs", id]), id);
  useKeys(TABS.map(([name, words], n) => ({ keys: [String(n + 1)], does: words, run: () => go(["runs", id, name]) })));
  if (!run.data) return run.error ? <Gone id={id} error={run.error} /> : <Loading />;
  return (
    <div class="page">
      <RunHead run={run.data} rights={rights} reload={run.reload} />
      <nav class="tabs" aria-label="About this run">
        {TABS.map(([name, words]) => (
          <a key={name} href={href(["runs", id, name])} aria-current={name === tab ? "page" : undefined}>
            {words}{name === "alerts" && run.data && run.data.alerts.length > 0 && <span class="count">{run.data.alerts.length}</span>}
          </a>
        ))}
      </nav>
      {run.error && <Failed error={run.error} what="run" />}
      <Tab tab={tab} run={run.data} rights={rights} />
    </div>
  );
}

function Tab({ tab, run, rights }: { tab: string; run: RunDetail; rights: string[] }) {
  if (tab === "overview") return <Overview run={run} />;
  if (tab === "completions") return <Completions run={run} />;
  if (tab === "logs") return <Logs run={run} />;
  if (tab === "rewards") return <Versions run={run} rights={rights} />;
  if (tab === "alerts") return <RunAlerts run={run} />;
  if (tab === "settings") return <Settings run={run} />;
  return <Empty title="There is no such page about a run"><p><a href={href(["runs", run.id])}>Overview</a></p></Empty>;
}

function Gone({ id, error }: { id: string; error: ApiError }) {
  if (error.status !== 404) return <Failed error={error} what="run" />;
  return (
    <Empty title={`There is no run ${plain(id, 60)}`}>
      <p>Its folder and its rows were removed, or the name is mistyped. <a href={href([])}>Jobs and runs</a></p>
    </Empty>
  );
}

function RunHead({ run, rights, reload }: { run: RunDetail; rights: string[]; reload: () => void }) {
  return (
    <div class="run-head">
      <div class="row">
        <h1><Inline text={run.id} limit={80} /></h1>
        <Emulated run={run} />
        <StatePill state={run.state} />
        <span><Inline text={run.reason_words ?? ""} limit={300} /></span>
        <span class="room" />
        {rights.includes("control") && <Actions run={run} reload={reload} />}
      </div>
      <div class="row facts">
        <Progress run={run} />
        <span>{timing(run)}</span>
        {run.detail !== `step ${run.last_step} of ${run.total_steps}` && <span class="muted"><Inline text={run.detail} limit={200} /></span>}
        {run.parent && <span>from <a href={href(["runs", run.parent])}><Inline text={run.parent} /></a></span>}
        {run.next_action && <span class="next"><Advice text={run.next_action} /></span>}
      </div>
      {run.error && <details class="run-error" open={run.state === "failed"}><summary>What went wrong</summary><Block text={run.error} label="error" /></details>}
    </div>
  );
}

function timing(run: RunDetail): string {
  if (run.started_at === null) return `submitted ${moment(run.created_at)}`;
  const seconds = (run.ended_at ?? Date.now() / 1000) - run.started_at;
  const left = run.ended_at === null && run.last_step > 0 ? (seconds / run.last_step) * (run.total_steps - run.last_step) : null;
  return left === null || run.state !== "running" ? `took ${duration(seconds)}` : `for ${duration(seconds)}, about ${duration(left)} left`;
}

interface Action {
  verb: "stop" | "cancel" | "resume";
  words: string;
  title: string;
  text: string;
}

const STOP: Action = { verb: "stop", words: "Stop", title: "Stop this run?", text: "It writes a checkpoint and is held; `resume` goes on from there." };
const CANCEL: Action = { verb: "cancel", words: "Cancel", title: "Cancel this run for good?", text: "It can't be resumed afterwards. What it recorded stays." };
const RESUME: Action = { verb: "resume", words: "Resume", title: "Resume this run?", text: "It goes on from its last checkpoint, as a new attempt." };

function Actions({ run, reload }: { run: RunDetail; reload: () => void }) {
  const [asked, setAsked] = useState<Action | null>(null);
  const [error, setError] = useState<ApiError | null>(null);
  const offered = ["starting", "running"].includes(run.state) ? [STOP, CANCEL] : run.state === "held" ? [RESUME, CANCEL] : run.state === "queued" ? [CANCEL] : [];
  const act = (action: Action) =>
    void post(url(["runs", run.id, action.verb])).then(reload, (failed: unknown) => failed instanceof ApiError && setError(failed));
  return (
    <span class="buttons">
      {error && <Failed error={error} what="run" />}
      {offered.map((action) => <button type="button" key={action.verb} onClick={() => setAsked(action)}>{action.words}</button>)}
      {asked && <Confirm title={asked.title} text={asked.text} yes={asked.words} act={() => act(asked)} close={() => setAsked(null)} />}
    </span>
  );
}
