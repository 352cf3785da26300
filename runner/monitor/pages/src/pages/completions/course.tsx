/** One prompt over the steps: a row a step, a column a completion, darker for a higher total. */
import { score } from "../../format";
import { useKeys } from "../../keys";
import { Empty, Failed, Loading, useInView } from "../../parts";
import { change, href } from "../../route";
import { Inline, plain } from "../../text";
import type { Completion } from "../../types";
import { type View, whole } from ".";
import { Card, PromptText } from "./card";
import { best, useExample } from "./example";

export function CourseView({ run, split, query }: View) {
  const example = whole(query, "example");
  const all = useExample(run.id, split, example);
  const latest = best(all.byStep.get(all.steps.at(-1) ?? -1) ?? []);
  const at = all.completions.find((one) => one.id === whole(query, "at")) ?? latest;
  const step = at ? all.steps.indexOf(at.step) : -1;
  const rowOf = (n: number) => all.byStep.get(all.steps[n] ?? -1) ?? [];
  const column = at ? rowOf(step).findIndex((one) => one.id === at.id) : 0;
  const to = (n: number, c: number) => {
    const row = rowOf(n);
    if (row.length) change({ at: row[Math.max(0, Math.min(row.length - 1, c))]?.id });
  };
  useKeys([
    { keys: ["j", "ArrowDown"], does: "a step later", run: () => to(step + 1, column) },
    { keys: ["k", "ArrowUp"], does: "a step earlier", run: () => to(step - 1, column) },
    { keys: ["ArrowRight", "l"], does: "next completion", run: () => to(step, column + 1) },
    { keys: ["ArrowLeft", "h"], does: "completion before", run: () => to(step, column - 1) },
    { keys: ["Enter"], does: "compares it with the best of the latest step", run: () => at && change({ view: "compare", left: at.id, right: null }, "push") },
  ]);
  if (all.error) return <Failed error={all.error} what="completions" />;
  if (example === null) return <Empty title="No prompt is chosen"><p>Choose one under Prompts.</p></Empty>;
  if (!at) return all.loaded ? <Empty title={`Prompt ${example} has no ${split} completions`} /> : <Loading />;
  return (
    <>
      <PromptText text={at.prompt} example={example} />
      <div class="split wide">
        <Grid steps={all.steps} rows={all.byStep} at={at.id} />
        <div class="members">
          <Card run={run} completion={at} title={`Step ${at.step}`} links />
          <p class="links"><a href={href(["runs", run.id, "completions"], { view: "compare", split: split === "eval" ? "eval" : null, example, left: at.id })}>compare with the best of the latest step</a></p>
        </div>
      </div>
    </>
  );
}

function Grid({ steps, rows, at }: { steps: number[]; rows: Map<number, Completion[]>; at: number }) {
  const totals = [...rows.values()].flat().map((one) => one.reward).filter((reward) => reward !== null);
  const [low, high] = [Math.min(...totals), Math.max(...totals)];
  const width = Math.max(...[...rows.values()].map((row) => row.length));
  return (
    <div class="scroll grid" tabIndex={0} role="group" aria-label="Completions by step">
      <table class="rows course">
        <thead><tr><th scope="col" class="num">step</th>{Array.from({ length: width }, (_, n) => <th scope="col" key={n}>{n + 1}</th>)}</tr></thead>
        <tbody>
          {steps.map((step) => (
            <tr key={step}>
              <th scope="row" class="num">{step}</th>
              {(rows.get(step) ?? []).map((one) => <Cell key={one.id} one={one} level={one.reward === null ? 0 : (one.reward - low) / (high - low || 1)} chosen={one.id === at} />)}
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}

function Cell({ one, level, chosen }: { one: Completion; level: number; chosen: boolean }) {
  const ref = useInView<HTMLTableCellElement>(chosen);
  return (
    <td ref={ref} class={`cell level-${one.reward === null ? "none" : Math.round(level * 5)} ${chosen ? "chosen" : ""}`}>
      <button type="button" title={plain(one.completion, 300)} aria-pressed={chosen} onClick={() => change({ at: one.id })}>
        <b class="num">{one.reward === null ? "error" : score(one.reward)}</b>
        <span class="mono"><Inline text={one.completion.slice(-200)} limit={200} /></span>
      </button>
    </td>
  );
}
