/** Source files: to read, and to edit. An editor is a text area over the same text in colours. */
import { useMemo } from "preact/hooks";
import { pythonLines, type Token } from "../python";
import { Inline, plain } from "../text";

export function Source({ path, text }: { path: string; text: string }) {
  return (
    <section aria-label={plain(path)}>
      <h3 class="mono"><Inline text={path} /></h3>
      <div class="source" tabIndex={0} role="group" aria-label={`source of ${plain(path)}`}><Code text={text.replace(/\n$/, "")} /></div>
    </section>
  );
}

export function Editor(props: { path: string; text: string; edited: boolean; edit: (text: string) => void }) {
  return (
    <section aria-label={plain(props.path)}>
      <h3 class="mono"><Inline text={props.path} /> {props.edited && <span class="tag">edited</span>}</h3>
      <div class="source editor">
        <div aria-hidden="true"><Code text={`${props.text}${props.text.endsWith("\n") ? " " : ""}`} /></div>
        <textarea
          value={props.text} spellcheck={false} autocomplete="off" aria-label={`${plain(props.path)}, Escape and then Tab leaves it`} wrap="off"
          onInput={(event) => props.edit(event.currentTarget.value)} onKeyDown={indent}
        />
      </div>
    </section>
  );
}

function Code({ text }: { text: string }) {
  const lines = useMemo(() => pythonLines(text), [text]);
  return (
    <>
      {lines.map((line, n) => (
        <div key={n} class="code-line"><span class="line-number" aria-hidden="true">{n + 1}</span><code>{line.map(coloured)}</code></div>
      ))}
    </>
  );
}

function coloured({ kind, text }: Token, n: number) {
  const shown = plain(text, 2000);
  return kind ? <span key={n} class={`py-${kind}`}>{shown}</span> : shown;
}

/** Tab indents, Enter goes on at the same depth. Inserted as if typed, so that it can be undone. */
function indent(event: KeyboardEvent): void {
  const area = event.currentTarget as HTMLTextAreaElement;
  if (event.key !== "Tab" && event.key !== "Enter") return;
  if (event.shiftKey || event.ctrlKey || event.metaKey || event.altKey) return;
  const line = area.value.slice(area.value.lastIndexOf("\n", area.selectionStart - 1) + 1, area.selectionStart);
  const depth = /^ */.exec(line)?.[0] ?? "";
  event.preventDefault();
  document.execCommand("insertText", false, event.key === "Tab" ? "    " : `\n${depth}${line.trimEnd().endsWith(":") ? "    " : ""}`);
}
