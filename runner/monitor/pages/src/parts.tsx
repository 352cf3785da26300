/** The small pieces that every page is made of. */
import type { ComponentChildren } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import type { ApiError } from "./api";
import { change } from "./route";
import { Inline, plain } from "./text";
import type { Finding, Run, State } from "./types";

const TONE: Record<State, string> = {
  queued: "quiet", starting: "busy", running: "busy", held: "warn", succeeded: "good",
  failed: "bad", cancelled: "quiet", timed_out: "bad", superseded: "quiet",
};

export function StatePill({ state }: { state: State }) {
  return <span class={`pill ${TONE[state] ?? "quiet"}`}>{state.replace("_", " ")}</span>;
}

export function Emulated({ run }: { run: { emulated: boolean } }) {
  if (!run.emulated) return null;
  return <span class="emulated" title="A run in miniature on the emulator: its figures say nothing about the real model">EMULATED</span>;
}

export function Progress({ run }: { run: Run }) {
  const share = run.total_steps ? Math.min(1, run.last_step / run.total_steps) : 0;
  return (
    <span class="progress">
      <progress max={1} value={share} aria-label={`step ${run.last_step} of ${run.total_steps}`} />
      <span class="num">{run.last_step}/{run.total_steps}</span>
    </span>
  );
}

export function Sparkline({ points, label }: { points: [number, number | null][]; label: string }) {
  const known = points.filter((point): point is [number, number] => point[1] !== null);
  if (known.length < 2) return <span class="muted">–</span>;
  const xs = known.map((point) => point[0]);
  const ys = known.map((point) => point[1]);
  const [x0, x1, y0, y1] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
  const place = ([x, y]: [number, number]) =>
    `${(2 + (96 * (x - x0)) / (x1 - x0 || 1)).toFixed(1)},${(22 - (20 * (y - y0)) / (y1 - y0 || 1)).toFixed(1)}`;
  return (
    <svg class="spark" viewBox="0 0 100 24" role="img" aria-label={`${label}: ${ys[0]?.toFixed(2)} to ${ys[ys.length - 1]?.toFixed(2)}`}>
      <polyline points={known.map(place).join(" ")} />
    </svg>
  );
}

/** A command to take to the terminal. */
export function Command({ text }: { text: string }) {
  const [copied, setCopied] = useState(false);
  const copy = () => void navigator.clipboard?.writeText(text).then(() => setCopied(true));
  useEffect(() => {
    if (!copied) return undefined;
    const timer = window.setTimeout(() => setCopied(false), 1500);
    return () => window.clearTimeout(timer);
  }, [copied]);
  return (
    <span class="command">
      <code><Inline text={text} limit={400} /></code>
      <button type="button" onClick={copy} aria-label={`copy: ${plain(text)}`}>{copied ? "copied" : "copy"}</button>
    </span>
  );
}

/** A sentence in which what is between backticks is a command. */
export function Advice({ text }: { text: string }) {
  return <>{text.split("`").map((part, n) => (n % 2 ? <Command key={n} text={part} /> : <Inline key={n} text={part} limit={400} keep />))}</>;
}

export function Empty({ title, children }: { title: string; children?: ComponentChildren }) {
  return (
    <div class="empty">
      <p class="empty-title">{title}</p>
      {children}
    </div>
  );
}

export function Failed({ error, what }: { error: ApiError; what: string }) {
  return (
    <div class="failed" role="alert">
      <p><strong>{title(error, what)}</strong></p>
      <p class="prewrap"><Inline text={error.message} limit={600} /></p>
    </div>
  );
}

function title(error: ApiError, what: string): string {
  if (error.status === 0) return "No connection";
  if (error.status === 401 || error.status === 403) return "Not signed in: open the link that `runner ui` prints";
  return error.status === 404 ? `No such ${what}; it may have been removed` : `The monitor could not read the ${what}`;
}

export function Loading() {
  return <p class="muted loading" aria-busy="true">Loading…</p>;
}

/** What is wrong in a file, at its line. */
export function Findings({ findings }: { findings: Finding[] }) {
  return (
    <ul class="findings">
      {findings.map((finding, n) => (
        <li key={n} class={finding.severity}>
          <p>
            <code class="place"><Inline text={[finding.file, finding.line || "", finding.column || ""].filter(Boolean).join(":")} /></code>{" "}
            <span class="tag">{finding.severity}[{finding.code}]</span> <strong><Inline text={finding.field} /></strong>{" "}
            <Inline text={finding.message} limit={500} />
          </p>
          {finding.excerpt && <Excerpt finding={finding} />}
          {finding.hint && <p class="hint"><Inline text={finding.hint} limit={300} /></p>}
        </li>
      ))}
    </ul>
  );
}

function Excerpt({ finding }: { finding: Finding }) {
  const gutter = `${finding.line} | `;
  return (
    <pre class="excerpt" tabIndex={0} role="group" aria-label={`line ${finding.line}`}>
      <span class="muted">{gutter}</span>{plain(finding.excerpt, 300)}
      {finding.column > 0 && finding.column < 200 && `\n${" ".repeat(gutter.length + finding.column - 1)}^`}
    </pre>
  );
}

/** A text field whose value is in the address, a moment after the typing stops. */
export function Field(props: { name: string; value: string; label: string; kind?: "search" | "number"; hint?: string; focusKey?: boolean }) {
  const [text, setText] = useState(props.value);
  const timer = useRef(0);
  useEffect(() => setText(props.value), [props.value]);
  const typed = (value: string) => {
    setText(value);
    window.clearTimeout(timer.current);
    timer.current = window.setTimeout(() => change({ [props.name]: value }), 250);
  };
  return (
    <label class={`field ${props.kind ?? "search"}`}>
      <span>{props.label}</span>
      {props.kind === "number"
        ? <input type="number" step="any" value={text} placeholder={props.hint} onInput={(event) => typed(event.currentTarget.value)} />
        : <input
            type="text" value={text} placeholder={props.hint} spellcheck={false} autocomplete="off"
            data-search={props.focusKey ? "" : undefined} onInput={(event) => typed(event.currentTarget.value)}
          />}
    </label>
  );
}

/** A choice whose value is in the address. The first one is what stands when nothing is there. */
export function Choice(props: { name: string; value: string; label: string; options: [string, string][] }) {
  return (
    <label class="field">
      <span>{props.label}</span>
      <select value={props.value} onChange={(event) => change({ [props.name]: event.currentTarget.value })}>
        {props.options.map(([value, words]) => <option key={value} value={value}>{words}</option>)}
      </select>
    </label>
  );
}

export function More({ more, shown }: { more: (() => void) | null; shown: number }) {
  if (!more) return null;
  return <p class="more"><button type="button" onClick={more}>Show more</button> <span class="muted">{shown.toLocaleString("en")} shown</span></p>;
}

/** Keeps the chosen row of a table in view. */
export function useInView<T extends HTMLElement>(chosen: boolean) {
  const ref = useRef<T>(null);
  useEffect(() => {
    if (chosen) ref.current?.scrollIntoView({ block: "nearest" });
  }, [chosen]);
  return ref;
}
