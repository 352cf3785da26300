/** Everything that was in force: the resolved job, what the emulator could not honour, attempts and checkpoints. */
import { useState } from "preact/hooks";
import { bytes, moment } from "../format";
import { Inline, plain } from "../text";
import type { RunDetail } from "../types";

export function Settings({ run }: { run: RunDetail }) {
  const [all, setAll] = useState(false);
  const rows = flat(run.spec);
  const set = rows.filter(([, value]) => !["null", "[]", "{}"].includes(value));
  return (
    <div class="columns">
      <section>
        <div class="row">
          <h2>Job as it ran</h2>
          <span class="room" />
          <button type="button" class="small" aria-pressed={all} onClick={() => setAll(!all)}>{all ? "only what is set" : `also the ${rows.length - set.length} that are not set`}</button>
        </div>
        <div class="scroll" tabIndex={0} role="group" aria-label="Settings">
          <table class="rows plain">
            <tbody>{(all ? rows : set).map(([path, value]) => <tr key={path}><th scope="row"><Inline text={path} /></th><td class="mono"><Inline text={value} limit={300} /></td></tr>)}</tbody>
          </table>
        </div>
      </section>
      <section>
        {run.differences.length > 0 && (
          <>
            <h2>What differs from a real run</h2>
            <ul class="list">{run.differences.map((one, n) => <li key={n}><Inline text={sentence(one)} limit={500} /></li>)}</ul>
          </>
        )}
        <h2>Attempts</h2>
        <ul class="list">
          {run.attempts.map((attempt) => (
            <li key={attempt.n}>
              {attempt.n}: {moment(attempt.started_at)}, {attempt.outcome ? plain(attempt.outcome) : "under way"}
              {attempt.resumed_step !== null && `, from step ${attempt.resumed_step}`}
            </li>
          ))}
        </ul>
        <h2>Checkpoints</h2>
        {run.checkpoints.length === 0 && <p class="muted">None yet.</p>}
        <ul class="list">
          {run.checkpoints.map((one) => <li key={one.step} class={one.kept ? "" : "muted"}>step {one.step}, {one.kept ? bytes(one.bytes) : "removed since, as `checkpoints.keep` says"}</li>)}
        </ul>
        <h2>Digest</h2>
        <p class="mono break">{plain(run.digest ?? "not yet")}</p>
        <p class="muted"><Inline text={run.digest_note} limit={300} /></p>
      </section>
    </div>
  );
}

function sentence(difference: unknown): string {
  if (typeof difference === "string") return difference;
  if (typeof difference !== "object" || difference === null) return String(difference);
  return Object.values(difference).filter((value) => value !== "" && value !== null).map(shown).join(": ");
}

export function shown(value: unknown): string {
  return typeof value === "string" ? value : JSON.stringify(value) ?? "–";
}

function flat(value: unknown, path = ""): [string, string][] {
  if (typeof value !== "object" || value === null || Array.isArray(value)) return [[path, shown(value)]];
  return Object.entries(value).flatMap(([name, inner]) => flat(inner, path ? `${path}.${name}` : name));
}
