/** The reward functions as they were, version by version, and what changed. The lab, where editing is allowed. */
import { url, useApi } from "../api";
import { diffLines } from "../diff";
import { Empty, Failed, Loading } from "../parts";
import { change, useRoute } from "../route";
import { Block, Inline, plain } from "../text";
import type { RunDetail, Version } from "../types";
import { useKeys } from "../keys";
import { Lab } from "./lab";

export interface Source {
  files: Record<string, string>;
  diff_from_previous: string | null;
}

export function Versions({ run, rights }: { run: RunDetail; rights: string[] }) {
  const { query } = useRoute();
  const chosen = run.versions.find((one) => one.sha256 === query.get("version")) ?? run.versions.findLast((one) => one.state === "active") ?? run.versions.at(-1);
  const at = chosen ? run.versions.indexOf(chosen) : -1;
  const to = (n: number) => run.versions[n] && change({ version: run.versions[n].sha256 });
  useKeys([
    { keys: ["j", "ArrowDown"], does: "next version", run: () => to(at + 1) },
    { keys: ["k", "ArrowUp"], does: "version before", run: () => to(at - 1) },
    { keys: ["d"], does: "what changed, or the source", run: () => change({ show: query.get("show") === "diff" ? null : "diff" }) },
  ]);
  if (!chosen) return <Empty title="No reward version is recorded yet"><p>The first one appears when the run has loaded its rewards.</p></Empty>;
  return (
    <div class="split narrow-left">
      <nav class="group-list" aria-label="Reward versions">
        {run.versions.toReversed().map((one) => <Line key={one.sha256} version={one} chosen={one === chosen} />)}
      </nav>
      <Shown key={chosen.sha256} run={run} version={chosen} diff={query.get("show") === "diff"} edit={rights.includes("edit")} />
    </div>
  );
}

function Line({ version, chosen }: { version: Version; chosen: boolean }) {
  return (
    <button type="button" class="group-line" aria-current={chosen ? "true" : undefined} onClick={() => change({ version: version.sha256 })}>
      <span class="row"><b>v{version.version}</b> <span class={`tag ${version.state === "rejected" ? "bad-text" : ""}`}>{plain(version.state)}</span></span>
      <span class="muted">{version.first_step === null ? "not used yet" : `from step ${version.first_step}`}, <code>{version.sha256.slice(0, 8)}</code></span>
    </button>
  );
}

function Shown({ run, version, diff, edit }: { run: RunDetail; version: Version; diff: boolean; edit: boolean }) {
  const source = useApi<Source>(url(["runs", run.id, "versions", version.sha256]));
  const verbs = useApi<{ paths: Record<string, unknown> }>(edit ? url(["openapi.json"]) : null);
  if (source.error) return <Failed error={source.error} what="reward version" />;
  if (!source.data) return <Loading />;
  const changed = source.data.diff_from_previous;
  const lab = verbs.data !== undefined && "/api/v1/runs/{run_id}/rescore" in verbs.data.paths;
  return (
    <div class="members">
      {version.error && <div class="failed"><p><strong>Refused</strong>, the version before stayed in force:</p><Block text={version.error} label="why it was refused" /></div>}
      <div class="row">
        <button type="button" aria-pressed={!diff} onClick={() => change({ show: null })}>source</button>
        <button type="button" aria-pressed={diff} disabled={!changed} onClick={() => change({ show: "diff" })}>{changed ? "changes from the version before" : "nothing before it"}</button>
      </div>
      {diff && changed ? <Diff text={changed} /> : <Files files={source.data.files} />}
      {lab && <Lab run={run} version={version} files={source.data.files} />}
    </div>
  );
}

function Files({ files }: { files: Record<string, string> }) {
  return (
    <>
      {Object.entries(files).map(([path, text]) => (
        <section key={path} aria-label={plain(path)}>
          <h3 class="mono"><Inline text={path} /></h3>
          <div class="source" tabIndex={0} role="group" aria-label={`source of ${plain(path)}`}>
            {text.replace(/\n$/, "").split("\n").map((line, n) => <div key={n} class="code-line"><span class="line-number" aria-hidden="true">{n + 1}</span><code>{plain(line, 2000)}</code></div>)}
          </div>
        </section>
      ))}
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
