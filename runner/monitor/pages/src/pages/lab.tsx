/**
 * The reward lab: edit a version's files, score stored completions under them, see what would change, publish. To edit
 * is to run code as whoever started the monitor, so it is there only where that was allowed.
 */
import { useEffect, useState } from "preact/hooks";
import { ApiError, get, post, request, url } from "../api";
import { Confirm } from "../dialog";
import { Command, Failed } from "../parts";
import { go } from "../route";
import { Block } from "../text";
import type { LabState, RunDetail, Version } from "../types";
import { Editor } from "./editor";
import { Outcome } from "./rescored";
import type { Source } from "./versions";

const POLL_MS = 400;
const STEPS = [5, 20, 100, 100_000];
const FINAL = ["succeeded", "failed", "cancelled", "timed_out", "superseded"];

/** What was typed and not published, by version: to look at another page does not lose it. */
const drafts = new Map<string, Record<string, string>>();

export interface LabProps {
  run: RunDetail;
  version: Version;
  source: Source;
}

export function Lab({ run, version, source }: LabProps) {
  const [edited, setEdited] = useState<Record<string, string>>(drafts.get(version.sha256) ?? {});
  const [steps, setSteps] = useState(20);
  const [said, setSaid] = useState("");
  const [error, setError] = useState<ApiError | null>(null);
  const [sure, setSure] = useState(false);
  const lab = useLab(run.id, setError);
  const ended = FINAL.includes(run.state);
  const edit = (path: string, text: string) => {
    const { [path]: _, ...others } = edited;
    const files = text === source.files[path] ? others : { ...others, [path]: text };
    drafts.set(version.sha256, files);
    setEdited(files);
  };
  const act = (doIt: () => Promise<string>) => {
    setError(null);
    setSaid("");
    doIt().then(setSaid, (failed: unknown) => failed instanceof ApiError && setError(failed));
  };
  const body = { base: version.sha256, files: edited };
  const score = () => act(async () => (await lab.begin({ ...body, last_steps: steps }), ""));
  const publish = () => act(async () => {
    const { sha256 } = await post<{ sha256: string }>(url(["runs", run.id, "versions"]), { ...body, expected: source.wanted });
    go(["runs", run.id, "rewards"], { version: sha256, published: "yes" });
    return `Published as ${sha256.slice(0, 8)}. It is checked now, and goes live between two batches.`;
  });
  const save = () => act(async () => `Saved: ${(await post<{ paths: string[] }>(url(["runs", run.id, "save"]), body)).paths.join(", ")}`);
  const scoring = lab.state?.state === "scoring";
  const touched = Object.keys(edited).length > 0;
  return (
    <section aria-label="Reward lab" class="lab">
      {source.editable.map((path) => <Editor key={path} path={path} text={edited[path] ?? source.files[path] ?? ""} edited={path in edited} edit={(text) => edit(path, text)} />)}
      <div class="lab-bar">
        <button type="button" class="strong" disabled={!touched || scoring} onClick={score}>Score stored completions</button>
        <label class="field"><span>of the last</span>
          <select value={String(steps)} onChange={(event) => setSteps(Number(event.currentTarget.value))}>
            {STEPS.map((count) => <option key={count} value={String(count)}>{count === 100_000 ? "all steps" : `${count} steps`}</option>)}
          </select>
        </label>
        <span class="room" />
        <button type="button" disabled={!touched || ended} title={ended ? "The run has ended" : undefined} onClick={() => setSure(true)}>Publish as the next version</button>
        <button type="button" disabled={!touched} onClick={save}>Save to the job's files</button>
        <button type="button" disabled={!touched} onClick={() => (drafts.delete(version.sha256), setEdited({}))}>Discard</button>
      </div>
      {ended && <p class="muted">The run has ended, so nothing can be published to it. Save to the job's files, then <Command text={`runner rerun ${run.id}`} /></p>}
      {said && <p role="status" class="good-text">{said}</p>}
      {error && <Failed error={error} what="edited rewards" />}
      {sure && <Confirm title="Publish these rewards?" text="They are tried on stored completions first; if they fail there, the version before stays in force. Otherwise they go live between two batches. The job's files stay as they are." yes="Publish" act={publish} close={() => setSure(false)} />}
      {lab.state && <Standing state={lab.state} cancel={lab.cancel} />}
      {lab.state?.result && <Outcome run={run} found={lab.state.result} />}
    </section>
  );
}

/** The re-scoring of the run, which goes on while nobody looks. */
function useLab(run: string, failed: (error: ApiError) => void) {
  const [state, setState] = useState<LabState | null>(null);
  const address = url(["runs", run, "lab"]);
  useEffect(() => void get<LabState>(address).then(setState, () => undefined), [address]);
  useEffect(() => {
    if (state?.state !== "scoring") return undefined;
    const timer = window.setTimeout(() => void get<LabState>(address).then(setState, (error: unknown) => error instanceof ApiError && failed(error)), POLL_MS);
    return () => window.clearTimeout(timer);
  }, [state, address]);
  return {
    state,
    begin: async (body: unknown) => setState(await post<LabState>(address, body)),
    cancel: () => void request<LabState>("DELETE", address).then(setState, () => undefined),
  };
}

function Standing({ state, cancel }: { state: LabState; cancel: () => void }) {
  if (state.state === "scoring")
    return (
      <p class="row" role="status">
        <progress max={1} value={state.total ? state.done / state.total : 0} aria-label="scored" />
        <span class="num">{state.total ? `${state.done} of ${state.total} steps scored` : "starting the rewards…"}</span>
        <button type="button" class="small" onClick={cancel}>Cancel</button>
      </p>
    );
  if (state.state === "cancelled") return <p class="muted" role="status">The scoring was cancelled.</p>;
  if (state.state === "failed") return <div class="failed" role="alert"><p><strong>These files can't score</strong></p><Block text={state.error ?? ""} label="why" /></div>;
  return null;
}
