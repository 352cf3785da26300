/**
 * What the model writes. Five ways to look, all over the same completions: prompts, two side by side, the groups of a
 * step, one prompt over the steps, and a list by reward, error or text.
 */
import { useKeys } from "../../keys";
import { Choice, Empty } from "../../parts";
import { change, href, useRoute } from "../../route";
import type { RunDetail, Split } from "../../types";
import { CompareView } from "./compare";
import { CourseView } from "./course";
import { GroupsView } from "./groups";
import { ListView } from "./list";
import { PromptsView } from "./prompts";

export interface View {
  run: RunDetail;
  split: Split;
  query: URLSearchParams;
}

const VIEWS: [string, string][] = [
  ["prompts", "Prompts"], ["compare", "Side by side"], ["groups", "Groups"], ["course", "Over steps"], ["list", "Best, worst, search"],
];

export function Completions({ run }: { run: RunDetail }) {
  const { query } = useRoute();
  const view = query.get("view") ?? "prompts";
  const split: Split = query.get("split") === "eval" ? "eval" : "train";
  const example = query.get("example");
  useKeys([{ keys: ["p"], does: "the prompt over all steps, and back", run: () => example && change({ view: view === "course" ? "compare" : "course" }, "push") }]);
  if (run.splits.length === 0) return <Empty title="No completions yet"><p>They appear with the first scored batch, an evaluation before step 1 included.</p></Empty>;
  return (
    <>
      <div class="row subnav">
        <nav aria-label="Ways to look at completions">
          {VIEWS.filter(([name]) => example || (name !== "compare" && name !== "course")).map(([name, words]) => (
            <a key={name} href={href(["runs", run.id, "completions"], { view: name, split: query.get("split"), step: query.get("step"), example })} aria-current={name === view ? "page" : undefined}>{words}</a>
          ))}
        </nav>
        <span class="room" />
        {run.splits.length > 1 && <Choice name="split" value={split} label="of" options={[["train", "training"], ["eval", "evaluation"]]} />}
      </div>
      {shown(view, { run, split, query })}
    </>
  );
}

function shown(view: string, props: View) {
  if (view === "compare") return <CompareView {...props} />;
  if (view === "course") return <CourseView {...props} />;
  if (view === "groups") return <GroupsView {...props} />;
  if (view === "list") return <ListView {...props} />;
  return <PromptsView {...props} />;
}

export function whole(query: URLSearchParams, name: string): number | null {
  const text = query.get(name);
  return text !== null && /^\d+$/.test(text) ? Number(text) : null;
}
