/** The prompts the run has used, and what came of each. */
import { useState } from "preact/hooks";
import { url, usePages } from "../../api";
import { score } from "../../format";
import { useKeys } from "../../keys";
import { Empty, Failed, Field, Loading, More, useInView } from "../../parts";
import { change, href } from "../../route";
import { Inline, shared } from "../../text";
import type { Prompt } from "../../types";
import { shown } from "../settings";
import type { View } from ".";

const COLUMNS = 4;

export function PromptsView({ run, split, query }: View) {
  const q = query.get("q") ?? "";
  const page = usePages<Prompt>(url(["runs", run.id, "prompts"], { split, q, limit: 100 }), "prompts", run.id);
  const [at, setAt] = useState(-1);
  const columns = names(page.rows);
  const same = shared(page.rows.map((prompt) => prompt.prompt));
  const move = (by: number) => setAt((old) => Math.max(0, Math.min(page.rows.length - 1, old + by)));
  const open = (prompt: Prompt | undefined) => prompt && change({ view: "compare", example: prompt.example_id, q: null }, "push");
  useKeys([
    { keys: ["j", "ArrowDown"], does: "next row", run: () => move(1) },
    { keys: ["k", "ArrowUp"], does: "row before", run: () => move(-1) },
    { keys: ["Enter"], does: "compares the prompt's completions", run: () => open(page.rows[at]) },
  ]);
  return (
    <section aria-label="Prompts">
      <div class="row filters"><Field name="q" value={q} label="prompt contains" focusKey /></div>
      {page.error && <Failed error={page.error} what="prompts" />}
      {!page.loaded && <Loading />}
      {page.loaded && page.rows.length === 0 && <Empty title={q ? "No prompt contains this" : `No ${split} completions yet`} />}
      {page.rows.length > 0 && (
        <div class="scroll" tabIndex={0} role="group" aria-label="Table of prompts">
          <table class="rows">
            <thead>
              <tr>
                <th scope="col">prompt index</th><th scope="col">prompt</th><th scope="col" class="num">characters</th>
                {columns.map((name) => <th scope="col" key={name}><Inline text={name} limit={30} /></th>)}
                <th scope="col" class="num">steps</th><th scope="col" class="num">completions</th><th scope="col" class="num">mean</th><th scope="col" class="num">best</th>
              </tr>
            </thead>
            <tbody>
              {page.rows.map((prompt, n) => <Row key={prompt.example_id} prompt={prompt} columns={columns} same={same} chosen={n === at} link={link(run.id, split, prompt)} />)}
            </tbody>
          </table>
        </div>
      )}
      <More more={page.more} shown={page.rows.length} />
    </section>
  );
}

function link(run: string, split: string, prompt: Prompt): string {
  return href(["runs", run, "completions"], { view: "compare", split: split === "train" ? null : split, example: prompt.example_id });
}

function Row(props: { prompt: Prompt; same: number; columns: string[]; chosen: boolean; link: string }) {
  const { prompt } = props;
  const ref = useInView<HTMLTableRowElement>(props.chosen);
  return (
    <tr ref={ref} class={props.chosen ? "chosen" : ""}>
      <td class="num"><a href={props.link}>{prompt.example_id}</a></td>
      <td class="text one-line"><a class="quiet-link" href={props.link}>{props.same > 0 && <span class="muted">… </span>}<Inline text={prompt.prompt.slice(props.same)} limit={200} /></a></td>
      <td class="num">{prompt.prompt_length}</td>
      {props.columns.map((name) => <td key={name} class="mono nowrap"><Inline text={shown(prompt.columns[name])} limit={32} /></td>)}
      <td class="num">{prompt.first_step === prompt.last_step ? prompt.last_step : `${prompt.first_step}–${prompt.last_step}`}</td>
      <td class="num">{prompt.completions}</td>
      <td class="num">{score(prompt.mean)}</td>
      <td class="num">{score(prompt.best)}</td>
    </tr>
  );
}

/** The data's columns; the prompt's own is shown already, and which split it is. */
function names(prompts: Prompt[]): string[] {
  const found = new Set(prompts.flatMap((prompt) => Object.keys(columnsOf(prompt))));
  for (const name of ["prompt", "split"]) found.delete(name);
  return [...found].slice(0, COLUMNS);
}

function columnsOf(prompt: Prompt): Record<string, unknown> {
  return typeof prompt.columns === "object" && prompt.columns !== null ? prompt.columns : {};
}
