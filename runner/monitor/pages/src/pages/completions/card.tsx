/** One completion: its text, every score with its reason, and where else to look from here. */
import { duration, score, signed, versionName } from "../../format";
import { href } from "../../route";
import { Block, Inline, plain, type Piece } from "../../text";
import type { Completion, Reward, RunDetail } from "../../types";

export interface CardProps {
  run: RunDetail;
  completion: Completion;
  title: string;
  pieces?: Piece[] | null;
  find?: string;
  whitespace?: boolean;
  links?: boolean;
}

export function Card(props: CardProps) {
  const { run, completion } = props;
  return (
    <article class="completion" aria-label={props.title}>
      <header class="row">
        <h3>{props.title}</h3>
        <span class="room" />
        <Total completion={completion} />
      </header>
      <p class="facts muted">
        <span>step <b class="num">{completion.step}</b></span>
        <span>{completion.split === "eval" ? "evaluation" : `group ${completion.group_id}, completion ${completion.idx + 1}`}</span>
        <span><b class="num">{completion.n_tokens}</b> tokens{completion.finish_reason === "length" && <b class="warn-text"> cut at the limit</b>}</span>
        <span>rewards {versionName(completion.reward_version, run.versions)}</span>
      </p>
      <Block text={completion.completion} pieces={props.pieces ?? null} find={props.find ?? ""} whitespace={props.whitespace ?? false} label={`completion, ${props.title}`} />
      {completion.truncated && <p class="warn-text">Longer than the monitor gives; `runner export` has all of it.</p>}
      <Scores completion={completion} rewards={run.rewards} />
      {props.links && <Links run={run.id} completion={completion} />}
    </article>
  );
}

function Total({ completion }: { completion: Completion }) {
  return (
    <span class="total">
      {completion.reward === null
        ? <b class="bad-text" title="A reward failed: the completion left its group and teaches nothing">left its group</b>
        : <>total <b class="num">{score(completion.reward)}</b></>}
      {completion.advantage !== null && completion.split === "train" && completion.reward !== null && <Advantage value={completion.advantage} />}
    </span>
  );
}

/** How much better than its group: what the update pushes. */
export function Advantage({ value, most = 2 }: { value: number; most?: number }) {
  const width = Math.min(1, Math.abs(value) / most) * 50;
  return (
    <span class="advantage" title="advantage: how much better than the others of its group; pushed towards when positive">
      <svg viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true">
        <line x1="50" x2="50" y1="0" y2="10" />
        <rect class={value < 0 ? "down" : "up"} x={value < 0 ? 50 - width : 50} y="2" width={width} height="6" />
      </svg>
      <span class="num">{signed(value)}</span>
    </span>
  );
}

function Scores({ completion, rewards }: { completion: Completion; rewards: Reward[] }) {
  const known = new Map(rewards.map((reward) => [reward.name, reward]));
  const rows = Object.entries(completion.scores).toSorted(([a], [b]) => place(rewards, a) - place(rewards, b));
  return (
    <table class="scores">
      <thead class="for-ears"><tr><th scope="col">reward</th><th scope="col">score</th><th scope="col">reason</th></tr></thead>
      <tbody>
        {rows.map(([name, one]) => (
          <tr key={name}>
            <th scope="row">
              <Inline text={name} limit={40} />
              <small class="muted"> {weightOf(known.get(name))}</small>
            </th>
            <td class="num">{one.outcome === "ok" || one.value !== null ? <b>{score(one.value)}</b> : <span class={`tag ${one.outcome === "none" ? "" : "bad-text"}`}>{outcome(one.outcome)}</span>}</td>
            <td>
              {one.outcome !== "ok" && one.value !== null && <span class="tag bad-text">{outcome(one.outcome)}</span>}
              {one.reason && <span class="prewrap"><Inline text={one.reason} limit={400} /></span>}
              {one.error && <details><summary class="bad-text">error</summary><Block text={one.error} label={`error of ${plain(name)}`} /></details>}
              {one.output && <details><summary>printed</summary><Block text={one.output} label={`printed by ${plain(name)}`} /></details>}
              {one.seconds >= 1 && <span class="muted"> {duration(one.seconds)}</span>}
            </td>
          </tr>
        ))}
      </tbody>
    </table>
  );
}

function place(rewards: Reward[], name: string): number {
  const at = rewards.findIndex((reward) => reward.name === name);
  return at < 0 ? rewards.length : at;
}

function weightOf(reward: Reward | undefined): string {
  if (!reward) return "";
  return `${reward.weight === 0 ? "not optimised" : `× ${reward.weight}`}${reward.trusted ? ", trusted" : ""}`;
}

export function outcome(name: string): string {
  return name === "none" ? "does not apply" : name.replace("_", "-");
}

function Links({ run, completion }: { run: string; completion: Completion }) {
  const split = completion.split === "eval" ? "eval" : null;
  const to = (values: Record<string, string | number | null>) => href(["runs", run, "completions"], { split, example: completion.example_id, ...values });
  return (
    <p class="links">
      <a href={to({ view: "compare", left: completion.id })}>compare</a>
      <a href={to({ view: "groups", step: completion.step, group: completion.group_id })}>its group</a>
      <a href={to({ view: "course" })}>this prompt over steps</a>
      <a href={href(["runs", run, "logs"], { step: completion.step })}>reward logs of step {completion.step}</a>
    </p>
  );
}

/** The prompt, folded once it is long. */
export function PromptText({ text, example }: { text: string | null; example: number }) {
  return (
    <details class="prompt" open={(text ?? "").length < 700}>
      <summary>Prompt <span class="num">{example}</span></summary>
      <Block text={text ?? ""} label={`prompt ${example}`} />
    </details>
  );
}

/** One line for a table. */
export function ScoreCells({ completion, rewards }: { completion: Completion; rewards: Reward[] }) {
  return (
    <>
      {rewards.map((reward) => {
        const one = completion.scores[reward.name];
        const failed = one && one.outcome !== "ok" && one.outcome !== "none";
        return <td key={reward.name} class={`num ${failed ? "bad-text" : ""}`} title={failed ? outcome(one.outcome) : undefined}>{failed && one.value === null ? "error" : score(one?.value)}</td>;
      })}
      <td class="num"><b>{score(completion.reward)}</b></td>
    </>
  );
}

export function ScoreHeads({ rewards }: { rewards: Reward[] }) {
  return (
    <>
      {rewards.map((reward) => <th scope="col" class="num" key={reward.name}><Inline text={reward.name} limit={30} /></th>)}
      <th scope="col" class="num">total</th>
    </>
  );
}
