/**
 * Two completions of one prompt. The right one starts as the best of the latest step, the left as the best of the
 * first; slider and arrows move the left one, keys do the same, and the words that differ are marked.
 */
import { useMemo } from "preact/hooks";
import { diffWords } from "../../diff";
import { score, versionName } from "../../format";
import { useKeys } from "../../keys";
import { Empty, Failed, Loading } from "../../parts";
import { change } from "../../route";
import { Inline } from "../../text";
import type { Completion, RunDetail } from "../../types";
import { type View, whole } from ".";
import { Card, PromptText, ScoreCells, ScoreHeads } from "./card";
import { best, type OfExample, useExample } from "./example";

const DIFF_CHARS = 200_000;

export function CompareView({ run, split, query }: View) {
  const example = whole(query, "example");
  const all = useExample(run.id, split, example);
  if (all.error) return <Failed error={all.error} what="completions" />;
  if (example === null) return <Empty title="No prompt is chosen"><p>Choose one under Prompts.</p></Empty>;
  if (all.completions.length === 0) return all.loaded ? <Empty title={`Prompt ${example} has no ${split} completions`} /> : <Loading />;
  const latest = best(all.byStep.get(all.steps.at(-1) as number) ?? []) as Completion;
  const right = find(all, whole(query, "right")) ?? latest;
  const left = find(all, whole(query, "left")) ?? first(all, right);
  return <Pair key={example} run={run} all={all} left={left} right={right} latest={latest} query={query} />;
}

function find(all: OfExample, id: number | null): Completion | undefined {
  return all.completions.find((one) => one.id === id);
}

/** The best of the first step, if that is another one than the right. */
function first(all: OfExample, right: Completion): Completion {
  const start = best(all.byStep.get(all.steps[0] as number) ?? []);
  return start && start.id !== right.id ? start : all.completions.find((one) => one.id !== right.id) ?? right;
}

interface PairProps {
  run: RunDetail;
  all: OfExample;
  left: Completion;
  right: Completion;
  latest: Completion;
  query: URLSearchParams;
}

function Pair({ run, all, left, right, latest, query }: PairProps) {
  const diff = query.get("diff") !== "off";
  const whitespace = query.get("space") === "on";
  const small = left.completion.length + right.completion.length < DIFF_CHARS;
  const sides = useMemo(() => (diff && small ? diffWords(left.completion, right.completion) : null), [diff, small, left.id, right.id]);
  const siblings = all.byStep.get(left.step) ?? [];
  const at = siblings.findIndex((one) => one.id === left.id);
  const toStep = (index: number) => {
    const rows = all.byStep.get(all.steps[Math.max(0, Math.min(all.steps.length - 1, index))] as number) ?? [];
    change({ left: (rows[at] ?? rows[0])?.id });
  };
  const stepAt = all.steps.indexOf(left.step);
  const within = (by: number) => change({ left: siblings[(at + by + siblings.length) % siblings.length]?.id });
  useKeys([
    { keys: ["ArrowLeft", "h"], does: "left: a step earlier", run: () => toStep(stepAt - 1) },
    { keys: ["ArrowRight", "l"], does: "left: a step later", run: () => toStep(stepAt + 1) },
    { keys: ["j", "ArrowDown"], does: "left: next completion of the step", run: () => within(1) },
    { keys: ["k", "ArrowUp"], does: "left: completion before", run: () => within(-1) },
    { keys: ["d"], does: "marks what differs, or not", run: () => change({ diff: diff ? "off" : null }) },
    { keys: ["w"], does: "shows spaces and line ends", run: () => change({ space: whitespace ? null : "on" }) },
    { keys: ["s"], does: "swaps the two", run: () => change({ left: right.id, right: left.id }) },
    { keys: ["b"], does: "right: best of the latest step", run: () => change({ right: null }) },
  ]);
  return (
    <>
      <PromptText text={left.prompt} example={left.example_id} />
      {all.cut && <p class="warn-text">Only the first {all.completions.length.toLocaleString("en")} completions of this prompt are here; the list has all.</p>}
      <Controls all={all} left={left} stepAt={stepAt} at={at} siblings={siblings.length} toStep={toStep} within={within} diff={diff} whitespace={whitespace} />
      {diff && !small && <p class="warn-text">Too long to mark the differences.</p>}
      <div class="pair">
        <Card run={run} completion={left} title="Left" pieces={sides?.left ?? null} whitespace={whitespace} />
        <Card run={run} completion={right} title={right.id === latest.id ? "Right: best of the latest step" : "Right"} pieces={sides?.right ?? null} whitespace={whitespace} />
      </div>
      <All run={run} all={all} left={left.id} right={right.id} />
    </>
  );
}

interface ControlProps {
  all: OfExample;
  left: Completion;
  stepAt: number;
  at: number;
  siblings: number;
  toStep: (index: number) => void;
  within: (by: number) => void;
  diff: boolean;
  whitespace: boolean;
}

function Controls(props: ControlProps) {
  const { all, left } = props;
  return (
    <div class="row controls">
      <label class="slider">
        <span>Left: step <b class="num">{left.step}</b></span>
        {all.steps.length < 2 ? <span class="muted nowrap">the only step with this prompt</span> : (
          <input
            type="range" min={0} max={all.steps.length - 1} value={props.stepAt}
            aria-valuetext={`step ${left.step}`} onInput={(event) => props.toStep(Number(event.currentTarget.value))}
          />
        )}
      </label>
      <span class="stepper">
        <button type="button" aria-label="completion before" disabled={props.siblings < 2} onClick={() => props.within(-1)}>‹</button>
        <span class="num">{props.at + 1} of {props.siblings}</span>
        <button type="button" aria-label="next completion" disabled={props.siblings < 2} onClick={() => props.within(1)}>›</button>
      </span>
      <span class="room" />
      <button type="button" aria-pressed={props.diff} onClick={() => change({ diff: props.diff ? "off" : null })}>differences</button>
      <button type="button" aria-pressed={props.whitespace} onClick={() => change({ space: props.whitespace ? null : "on" })}>spaces</button>
    </div>
  );
}

const ROWS = 200;

function All({ run, all, left, right }: { run: RunDetail; all: OfExample; left: number; right: number }) {
  const rows = all.completions.length > ROWS ? all.completions.slice(-ROWS) : all.completions;
  return (
    <section aria-label="All completions of this prompt">
      <h2>All completions of this prompt {rows.length < all.completions.length && <small class="muted">the latest {ROWS} of {all.completions.length}</small>}</h2>
      <div class="scroll tall" tabIndex={0} role="group" aria-label="Table of completions">
        <table class="rows">
          <thead><tr><th scope="col" class="num">step</th><th scope="col">completion</th><ScoreHeads rewards={run.rewards} /><th scope="col" class="num">tokens</th><th scope="col">rewards</th><th scope="col">view</th></tr></thead>
          <tbody>{rows.toReversed().map((one) => <Row key={one.id} run={run} one={one} side={one.id === left ? "left" : one.id === right ? "right" : ""} />)}</tbody>
        </table>
      </div>
    </section>
  );
}

function Row({ run, one, side }: { run: RunDetail; one: Completion; side: string }) {
  return (
    <tr class={side ? "chosen" : ""}>
      <td class="num">{one.step}</td>
      <td class="text mono"><Inline text={one.completion} limit={180} /></td>
      <ScoreCells completion={one} rewards={run.rewards} />
      <td class="num">{one.n_tokens}</td>
      <td>{versionName(one.reward_version, run.versions)}</td>
      <td class="nowrap">
        <button type="button" class="small" aria-pressed={side === "left"} aria-label={`left: step ${one.step}, ${score(one.reward)}`} onClick={() => change({ left: one.id })}>left</button>{" "}
        <button type="button" class="small" aria-pressed={side === "right"} aria-label={`right: step ${one.step}, ${score(one.reward)}`} onClick={() => change({ right: one.id })}>right</button>
      </td>
    </tr>
  );
}
