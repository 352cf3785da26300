/**
 * The reward lab: edit, score stored completions again, see what would change, publish as the next version. Editing is
 * running code as whoever runs the monitor, so it is there only where the monitor was started with that right.
 */
import { useState } from "preact/hooks";
import { ApiError, post, url } from "../api";
import { score } from "../format";
import { Empty, Failed } from "../parts";
import { Inline, plain } from "../text";
import type { RunDetail, Version } from "../types";

/** One stored completion, scored by the version it had and by the edited one. */
interface Rescored {
  id: number;
  step: number;
  completion: string;
  old: number | null;
  new: number | null;
  error: string | null;
}

type Answer = { rows: Rescored[]; error?: string | null };

export function Lab({ run, version, files }: { run: RunDetail; version: Version; files: Record<string, string> }) {
  const [edited, setEdited] = useState(files);
  const [busy, setBusy] = useState("");
  const [answer, setAnswer] = useState<Answer | null>(null);
  const [error, setError] = useState<ApiError | null>(null);
  const [published, setPublished] = useState(false);
  const touched = Object.keys(files).some((path) => files[path] !== edited[path]);
  const act = async (words: string, doIt: () => Promise<void>) => {
    setBusy(words);
    setError(null);
    await doIt().catch((failed: unknown) => failed instanceof ApiError && setError(failed));
    setBusy("");
  };
  const rescore = () => act("scoring…", async () => setAnswer(await post<Answer>(url(["runs", run.id, "rescore"]), { files: edited })));
  const publish = () => act("publishing…", async () => {
    await post(url(["runs", run.id, "publish"]), { files: edited, expected: version.sha256 });
    setPublished(true);
  });
  return (
    <section aria-label="Reward lab" class="lab">
      <h2>Lab</h2>
      <p class="muted">Change the functions here, score stored completions again, compare, and publish what you like as the next version. It goes live between two batches.</p>
      {Object.entries(edited).map(([path, text]) => (
        <label key={path} class="editor">
          <span class="mono">{plain(path)}</span>
          <textarea spellcheck={false} rows={Math.min(30, text.split("\n").length + 2)} value={text} onInput={(event) => setEdited({ ...edited, [path]: event.currentTarget.value })} />
        </label>
      ))}
      <p class="buttons">
        <button type="button" class="strong" disabled={!touched || busy !== ""} onClick={() => void rescore()}>Score stored completions again</button>
        <button type="button" disabled={!touched || !answer || busy !== ""} onClick={() => void publish()}>Publish as the next version</button>
        <span role="status">{busy || (published ? "Published; it is checked now and goes live at the next batch." : "")}</span>
      </p>
      {error && <Failed error={error} what="edited rewards" />}
      {answer && <Result answer={answer} />}
    </section>
  );
}

function Result({ answer }: { answer: Answer }) {
  const changed = answer.rows.filter((row) => row.old !== row.new || row.error);
  if (answer.rows.length === 0) return <Empty title="There are no stored completions to score yet" />;
  return (
    <>
      <p><b>{changed.length}</b> of {answer.rows.length} completions change their total, {answer.rows.filter((row) => row.error).length} fail.</p>
      <div class="scroll tall" tabIndex={0} role="group" aria-label="Old against new">
        <table class="rows">
          <thead><tr><th scope="col" class="num">step</th><th scope="col">completion</th><th scope="col" class="num">old</th><th scope="col" class="num">new</th></tr></thead>
          <tbody>
            {changed.map((row) => (
              <tr key={row.id}>
                <td class="num">{row.step}</td><td class="text mono"><Inline text={row.completion} /></td><td class="num">{score(row.old)}</td>
                <td class="num">{row.error ? <span class="bad-text"><Inline text={row.error} /></span> : score(row.new)}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
    </>
  );
}
