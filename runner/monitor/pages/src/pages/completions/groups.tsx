/** A step's groups: which had signal, and within one, which completions were pushed up and which down. */
import { url, useApi } from "../../api";
import { score } from "../../format";
import { useKeys } from "../../keys";
import { Empty, Failed, Loading, useInView } from "../../parts";
import { change } from "../../route";
import { Inline, shared } from "../../text";
import type { Completion, Group, RunDetail } from "../../types";
import { type View, whole } from ".";
import { Card, PromptText } from "./card";

export function GroupsView({ run, split, query }: View) {
  const steps = useApi<{ steps: number[] }>(url(["runs", run.id, "steps"], { split }), run.id);
  const all = steps.data?.steps ?? [];
  const wanted = whole(query, "step");
  const step = wanted ?? all.at(-1) ?? null;
  const groups = useApi<{ groups: Group[] }>(step === null ? null : url(["runs", run.id, "groups"], { step, split }), run.id);
  const at = whole(query, "group") ?? groups.data?.groups[0]?.group_id ?? null;
  const rows = groups.data?.groups ?? [];
  const index = rows.findIndex((group) => group.group_id === at);
  const stepAt = step === null ? -1 : nearest(all, step);
  const toStep = (to: number) => all[to] !== undefined && change({ step: all[to], group: null });
  const toGroup = (to: number) => rows[to] && change({ group: rows[to].group_id });
  useKeys([
    { keys: ["j", "ArrowDown"], does: "next group", run: () => toGroup(index + 1) },
    { keys: ["k", "ArrowUp"], does: "group before", run: () => toGroup(index - 1) },
    { keys: ["ArrowLeft", "h"], does: "a step earlier", run: () => toStep(stepAt - 1) },
    { keys: ["ArrowRight", "l"], does: "a step later", run: () => toStep(stepAt + 1) },
  ]);
  if (steps.error) return <Failed error={steps.error} what="steps" />;
  if (!steps.data) return <Loading />;
  if (all.length === 0) return <Empty title={`No ${split} completions yet`} />;
  return (
    <>
      <StepSlider steps={all} at={stepAt} step={step ?? 0} to={toStep} />
      {groups.error && <Failed error={groups.error} what="groups" />}
      {groups.data && rows.length === 0 && <Empty title={`Step ${step} has no ${split} completions`}><p>The nearest step that has some is {all[stepAt]}.</p></Empty>}
      {rows.length > 0 && (
        <div class="split">
          <GroupList groups={rows} chosen={at} evaluation={split === "eval"} />
          {rows[index] && <Members key={`${step}-${at}`} run={run} group={rows[index]} step={step as number} split={split} />}
        </div>
      )}
    </>
  );
}

function nearest(steps: number[], wanted: number): number {
  return steps.reduce((found, step, n) => (Math.abs(step - wanted) < Math.abs((steps[found] ?? 0) - wanted) ? n : found), 0);
}

export function StepSlider(props: { steps: number[]; at: number; step: number; to: (index: number) => void }) {
  return (
    <div class="row controls">
      <label class="slider">
        <span>Step <b class="num">{props.step}</b></span>
        <input
          type="range" min={0} max={props.steps.length - 1} value={props.at} disabled={props.steps.length < 2}
          aria-valuetext={`step ${props.step}`} onInput={(event) => props.to(Number(event.currentTarget.value))}
        />
      </label>
      <span class="muted">{props.steps.length} steps have completions</span>
    </div>
  );
}

function GroupList({ groups, chosen, evaluation }: { groups: Group[]; chosen: number | null; evaluation: boolean }) {
  const low = Math.min(...groups.map((group) => group.reward_min ?? Infinity));
  const high = Math.max(...groups.map((group) => group.reward_max ?? -Infinity));
  const same = shared(groups.map((group) => group.prompt ?? ""));
  const useful = groups.filter((group) => group.signal).length;
  return (
    <nav class="group-list" aria-label="Groups of the step">
      {!evaluation && <p class="muted">{useful} of {groups.length} groups have signal</p>}
      {groups.map((group) => <GroupLine key={group.group_id} group={group} chosen={group.group_id === chosen} same={same} low={low} high={high} evaluation={evaluation} />)}
    </nav>
  );
}

function GroupLine(props: { group: Group; chosen: boolean; same: number; low: number; high: number; evaluation: boolean }) {
  const { group } = props;
  const ref = useInView<HTMLButtonElement>(props.chosen);
  const x = (value: number | null) => (value === null ? 0 : (94 * (value - props.low)) / (props.high - props.low || 1) + 3);
  return (
    <button ref={ref} type="button" class="group-line" aria-current={props.chosen ? "true" : undefined} onClick={() => change({ group: group.group_id })}>
      <span class="group-prompt">{props.same > 0 && "… "}<Inline text={(group.prompt ?? "").slice(props.same)} limit={90} /></span>
      <span class="row">
        <svg class="range" viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true">
          <line x1={x(group.reward_min)} x2={x(group.reward_max)} y1="5" y2="5" />
          <rect x={x(group.reward_mean) - 1} width="2" y="1" height="8" />
        </svg>
        <span class="num muted">{score(group.reward_mean)}</span>
        {!props.evaluation && !group.signal && <span class="tag" title="All rewards are equal: the advantage is 0, nothing is learnt here">no signal</span>}
        {group.scored < group.completions && <span class="tag bad-text">{group.completions - group.scored} failed</span>}
      </span>
    </button>
  );
}

function Members(props: { run: RunDetail; group: Group; step: number; split: string }) {
  const { run, group, step, split } = props;
  const address = url(["runs", run.id, "completions"], { split, step, group_id: group.group_id, limit: 500 });
  const members = useApi<{ completions: Completion[] }>(address);
  const sorted = (members.data?.completions ?? []).toSorted((a, b) => (b.reward ?? -Infinity) - (a.reward ?? -Infinity));
  return (
    <div class="members">
      <PromptText text={group.prompt} example={group.example_id} />
      {members.error && <Failed error={members.error} what="completions" />}
      {!members.data && !members.error && <Loading />}
      {sorted.map((one, n) => <Card key={one.id} run={run} completion={one} title={`${n + 1} of ${sorted.length}, by reward`} links />)}
    </div>
  );
}
