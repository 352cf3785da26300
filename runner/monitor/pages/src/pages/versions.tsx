/** The reward functions version by version, and what changed. Where editing is allowed, the lab. */
import { useState } from "preact/hooks";
import { ApiError, post, url, useApi } from "../api";
import { diffLines } from "../diff";
import { Confirm } from "../dialog";
import { late } from "../late";
import { Command, Empty, Failed, Loading } from "../parts";
import { change, useRoute } from "../route";
import { Block, plain } from "../text";
import type { RunDetail, Version } from "../types";
import { useKeys } from "../keys";
import { Source as File } from "./editor";

const Lab = late(() => import("./lab").then((module) => module.Lab));

export interface Source {
  files: Record<string, string>;
  editable: string[];
  diff_from_previous: string;
  wanted: string;
}

export function Versions({ run, rights }: { run: RunDetail; rights: string[] }) {
  const { query } = useRoute();
  const wanted = query.get("version");
  const chosen = run.versions.find((one) => one.sha256 === wanted) ?? run.versions.findLast((one) => one.state === "active") ?? run.versions.at(-1);
  const at = chosen ? run.versions.indexOf(chosen) : -1;
  const may = rights.includes("edit");
  const to = (n: number) => run.versions[n] && change({ version: run.versions[n].sha256, published: null });
  const show = query.get("show");
  useKeys([
    { keys: ["j", "ArrowDown"], does: "version before", run: () => to(at - 1) },
    { keys: ["k", "ArrowUp"], does: "next version", run: () => to(at + 1) },
    { keys: ["d"], does: "what changed, or the source", run: () => change({ show: show === "diff" ? null : "diff" }) },
    { keys: ["e"], does: "opens the lab", run: () => may && change({ show: "lab" }) },
  ]);
  if (!chosen) return <Empty title="No reward version is recorded yet"><p>The first one appears when the run has loaded its rewards.</p></Empty>;
  const published = query.get("published") && wanted;
  return (
    <>
      {published && <p class="good-note" role="status">{words(run.versions.find((one) => one.sha256 === published))}</p>}
      <div class="split narrow-left">
        <nav class="group-list" aria-label="Reward versions">
          {run.versions.toReversed().map((one) => <Line key={one.sha256} version={one} chosen={one === chosen} />)}
        </nav>
        <Shown key={chosen.sha256} run={run} version={chosen} show={show} may={may} />
      </div>
    </>
  );
}

/** What has become of a version that was just published. */
function words(version: Version | undefined): string {
  if (!version) return "Published. It is tried on stored completions now, and goes live between two batches.";
  if (version.state === "rejected") return `Version ${version.version} was refused; the one before stays in force.`;
  return version.state === "active" ? `Version ${version.version} is live from step ${version.first_step}.` : `Version ${version.version} passed its check and goes live with the next batch.`;
}

function Line({ version, chosen }: { version: Version; chosen: boolean }) {
  return (
    <button type="button" class="group-line" aria-current={chosen ? "true" : undefined} onClick={() => change({ version: version.sha256, published: null })}>
      <span class="row"><b>v{version.version}</b> <span class={`tag ${TONE[version.state] ?? ""}`}>{WORDS[version.state] ?? plain(version.state)}</span></span>
      <span class="muted">{version.first_step === null ? "not used yet" : `from step ${version.first_step}`}, <code>{version.sha256.slice(0, 8)}</code></span>
    </button>
  );
}

const WORDS: Record<string, string> = { active: "live", retired: "replaced", staged: "waits", rejected: "refused" };
const TONE: Record<string, string> = { active: "good-text", rejected: "bad-text", staged: "warn-text" };

function Shown({ run, version, show, may }: { run: RunDetail; version: Version; show: string | null; may: boolean }) {
  const source = useApi<Source>(url(["runs", run.id, "versions", version.sha256]), run.id);
  if (source.error) return <Failed error={source.error} what="reward version" />;
  if (!source.data) return <Loading />;
  const changed = source.data.diff_from_previous;
  const tab = (name: string | null) => ({ "aria-pressed": show === name, onClick: () => change({ show: name, published: null }) });
  return (
    <div class="members">
      {version.error && <div class="failed"><p><strong>Refused</strong>, the version before stayed in force:</p><Block text={version.error} label="why it was refused" /></div>}
      <div class="row">
        <button type="button" {...tab(null)}>Source</button>
        <button type="button" {...tab("diff")} disabled={!changed}>{changed ? "Changes from the version before" : "Nothing before it"}</button>
        {may && <button type="button" {...tab("lab")}>Edit in the lab</button>}
        <span class="room" />
        {may && <Again run={run} version={version} />}
      </div>
      {!may && <p class="muted">To edit here, try on stored completions and publish, start the monitor with <Command text="runner ui --allow-edit" /></p>}
      {show === "diff" && changed ? <Diff text={changed} /> : show === "lab" && may
        ? <Lab run={run} version={version} source={source.data} />
        : Object.entries(source.data.files).map(([path, text]) => <File key={path} path={path} text={text} />)}
    </div>
  );
}

/** Puts an earlier version live again, or one that waits for a word. */
function Again({ run, version }: { run: RunDetail; version: Version }) {
  const [sure, setSure] = useState(false);
  const [error, setError] = useState<ApiError | null>(null);
  const waits = version.state === "staged";
  if (run.ended_at !== null || (!waits && version.state !== "retired")) return null;
  const act = () =>
    void post(url(["runs", run.id, waits ? "accept" : "rollback"]), waits ? {} : { version: version.version })
      .then(() => change({ published: "yes", version: version.sha256 }), (failed: unknown) => failed instanceof ApiError && setError(failed));
  const what = waits ? "Accept this version" : "Make it live again";
  return (
    <>
      {error && <Failed error={error} what="reward version" />}
      <button type="button" onClick={() => setSure(true)}>{what}</button>
      {sure && <Confirm title={`${what}?`} text="It goes live between two batches. The job's files stay as they are; their next edit replaces it." yes={what} act={act} close={() => setSure(false)} />}
    </>
  );
}

function Diff({ text }: { text: string }) {
  return (
    <div class="source" tabIndex={0} role="group" aria-label="changes">
      {diffLines(text.replace(/\n$/, "")).map(({ line, kind }, n) => <div key={n} class={`code-line ${kind}`}><code>{plain(line, 2000) || " "}</code></div>)}
    </div>
  );
}
