/** Old against new: what an edit of the rewards would have changed, over the same completions. */
import { number, score, signed } from "../format";
import { Empty } from "../parts";
import { href } from "../route";
import { Block, Inline } from "../text";
import type { Rescored, RunDetail, ScoreChange } from "../types";

export function Outcome({ run, found }: { run: RunDetail; found: Rescored }) {
  const failed = Object.entries(found.failed).filter(([, calls]) => calls > 0);
  return (
    <section aria-label="Old against new" class="outcome">
      <h2>Old against new <small class="muted">{found.completions.toLocaleString("en")} completions of steps {found.steps[0]} to {found.steps[1]}</small></h2>
      {failed.length > 0 && (
        <div class="failed">
          <p><strong>Calls that fail now:</strong> {failed.map(([name, calls]) => `${name} ${calls}`).join(", ")}</p>
          {found.failures.map((failure, n) => <Block key={n} text={failure.error} label={failure.outcome} />)}
        </div>
      )}
      <div class="outcome-top">
        <Changes rows={found.changes} />
        <Scatter points={found.points} />
      </div>
      <Moved run={run} found={found} />
    </section>
  );
}

function Changes({ rows }: { rows: ScoreChange[] }) {
  return (
    <div class="scroll" tabIndex={0} role="group" aria-label="Changes by function">
      <table class="rows">
        <thead>
          <tr>
            <th scope="col">reward</th><th scope="col" class="num">mean before</th><th scope="col" class="num">after</th><th scope="col" class="num">changed</th>
            <th scope="col" class="num" title="Spearman's ρ, mean within groups: 1 is the same order, so the same advantages' signs">order kept</th>
            <th scope="col" class="num" title="groups whose best completion is another one">new best</th>
            <th scope="col" class="num" title="groups that gain, and that lose, a difference to learn from">signal</th>
          </tr>
        </thead>
        <tbody>
          {rows.map((row) => (
            <tr key={row.name} class={row.changed ? "" : "muted"}>
              <th scope="row"><Inline text={row.name === "reward" ? "total" : row.name} limit={40} /></th>
              <td class="num">{score(row.mean_before)}</td>
              <td class="num"><b>{score(row.mean_after)}</b> {delta(row)}</td>
              <td class="num">{row.changed} of {row.values}</td>
              <td class="num">{row.group_rank_correlation === null ? "–" : number(row.group_rank_correlation)}</td>
              <td class="num">{row.new_winners} of {row.groups}</td>
              <td class="num">{row.gained || row.lost ? `+${row.gained} −${row.lost}` : "–"}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}

function delta({ mean_before: before, mean_after: after }: ScoreChange) {
  if (before === null || after === null || Math.abs(after - before) < 1e-9) return null;
  return <small class="muted">{signed(after - before)}</small>;
}

const [LEFT, SIDE] = [34, 200];

/** Each dot a completion: its total before and after. On the diagonal nothing changed. */
function Scatter({ points }: { points: [number | null, number | null][] }) {
  const known = points.filter((point): point is [number, number] => point[0] !== null && point[1] !== null);
  if (known.length === 0) return null;
  const [low, high] = [Math.min(...known.flat()), Math.max(...known.flat())];
  const room = (high - low) * 0.06 || 0.5;
  const at = (value: number) => (SIDE * (value - low + room)) / (high - low + 2 * room);
  const above = known.filter(([before, after]) => after > before + 1e-9).length;
  const below = known.filter(([before, after]) => after < before - 1e-9).length;
  return (
    <figure class="scatter">
      <svg viewBox={`0 0 ${LEFT + SIDE + 6} ${SIDE + 32}`} role="img" aria-label={`total before against after: ${above} rise, ${below} fall, ${known.length - above - below} stay`}>
        <rect x={LEFT} y="0" width={SIDE} height={SIDE} />
        <line x1={LEFT} y1={SIDE} x2={LEFT + SIDE} y2="0" />
        {known.map(([before, after], n) => <circle key={n} cx={LEFT + at(before)} cy={SIDE - at(after)} r="2.6" class={after > before + 1e-9 ? "up" : after < before - 1e-9 ? "down" : ""} />)}
        <text x={LEFT - 4} y={SIDE - at(low) + 4} text-anchor="end">{number(low, 2)}</text>
        <text x={LEFT - 4} y={SIDE - at(high) + 4} text-anchor="end">{number(high, 2)}</text>
        <text x={LEFT + at(low)} y={SIDE + 13} text-anchor="middle">{number(low, 2)}</text>
        <text x={LEFT + at(high)} y={SIDE + 13} text-anchor="middle">{number(high, 2)}</text>
        <text x={LEFT + SIDE / 2} y={SIDE + 27} text-anchor="middle">total before</text>
        <text x="10" y={SIDE / 2} text-anchor="middle" transform={`rotate(-90 10 ${SIDE / 2})`}>total after</text>
      </svg>
      <figcaption class="muted"><b class="num">{above}</b> rise, <b class="num">{below}</b> fall, <b class="num">{known.length - above - below}</b> stay</figcaption>
    </figure>
  );
}

function Moved({ run, found }: { run: RunDetail; found: Rescored }) {
  if (found.moved.length === 0) return <Empty title="No completion changes its total"><p>The edit makes no difference to what was scored so far.</p></Empty>;
  return (
    <>
      <h3>What moved most</h3>
      <div class="scroll tall" tabIndex={0} role="group" aria-label="Completions that moved most">
        <table class="rows">
          <thead><tr><th scope="col" class="num">step</th><th scope="col">completion</th><th scope="col" class="num">before</th><th scope="col" class="num">after</th><th scope="col" class="num">change</th></tr></thead>
          <tbody>
            {found.moved.map((one) => (
              <tr key={one.rollout_id}>
                <td class="num">{one.step}</td>
                <td class="text mono"><a class="quiet-link" href={href(["runs", run.id, "completions"], { view: "list", order: "step", step: one.step, at: one.rollout_id })}><Inline text={one.completion} limit={200} /></a></td>
                <td class="num">{one.before === null ? "left" : score(one.before)}</td>
                <td class="num"><b>{one.after === null ? "leaves" : score(one.after)}</b></td>
                <td class="num">{one.before === null || one.after === null ? "" : signed(one.after - one.before)}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
    </>
  );
}
