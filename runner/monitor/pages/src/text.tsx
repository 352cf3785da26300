/**
 * Text that somebody else wrote: models, reward functions, data sets. It only ever becomes text nodes. Characters that
 * are invisible or turn the reading direction are shown as symbols, for they are how a text lies about itself.
 */
import type { ComponentChildren } from "preact";
import { useState } from "preact/hooks";

/** Characters shown at once; a click shows all. */
const SHOWN = 20_000;
/** Places of what was searched that are marked. */
const MARKED = 500;

const NAMES: Record<number, string> = {
  0x00ad: "SHY", 0x061c: "ALM", 0x200b: "ZWSP", 0x200c: "ZWNJ", 0x200d: "ZWJ", 0x200e: "LRM", 0x200f: "RLM",
  0x2028: "LSEP", 0x2029: "PSEP", 0x202a: "LRE", 0x202b: "RLE", 0x202c: "PDF", 0x202d: "LRO", 0x202e: "RLO",
  0x2060: "WJ", 0x2066: "LRI", 0x2067: "RLI", 0x2068: "FSI", 0x2069: "PDI", 0xfeff: "BOM",
};

// C0 and C1 but tab and line feed; marks of direction; separators; tags; halves of surrogate pairs. Joiners are left
// alone behind a letter beyond ASCII or an emoji, where scripts need them.
const SPECIAL =
  /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060\u2066-\u2069\ufeff\u{e0000}-\u{e007f}]|(?<![^\u0000-\u007f])[\u200c\u200d]|\p{Cs}/gu;

function symbol(character: string): string {
  const code = character.codePointAt(0) ?? 0;
  if (code < 0x20) return String.fromCharCode(0x2400 + code);
  if (code === 0x7f) return "\u2421";
  return `[${NAMES[code] ?? `U+${code.toString(16).toUpperCase().padStart(4, "0")}`}]`;
}

/** For places that hold plain strings: titles, labels. */
export function plain(text: string, limit = 200): string {
  const cut = text.length > limit ? `${text.slice(0, limit)}…` : text;
  return cut.replace(/[\n\t]/g, " ").replace(SPECIAL, symbol);
}

/** One line of text, for tables and names. */
export function Inline({ text, limit = 160, keep = false }: { text: string; limit?: number; keep?: boolean }) {
  const head = text.slice(0, limit * 2);
  const line = (keep ? head : head.trim()).replace(/\s*\n\s*/g, " ⏎ ");
  const cut = line.length > limit || text.length > limit * 2 ? `${line.slice(0, limit)}…` : line;
  return <bdi>{safe(cut)}</bdi>;
}

export interface Piece {
  text: string;
  /** A class for it, as "added". */
  mark?: string;
}

/** Length of what all prompts begin with, up to a word: a system message says nothing in a table. */
export function shared(prompts: string[]): number {
  const [first = "", ...others] = prompts;
  let length = others.length ? first.length : 0;
  for (const other of others) while (!other.startsWith(first.slice(0, length))) length--;
  return length < 40 ? 0 : Math.max(0, first.lastIndexOf("\n", length - 1) + 1, first.lastIndexOf(" ", length - 30) + 1);
}

/** A text as a block, with its line breaks. `pieces` have it marked, as by a diff; `find` marks what was searched. */
export function Block(props: { text: string; pieces?: Piece[] | null; find?: string; whitespace?: boolean; label: string }) {
  const [whole, setWhole] = useState(false);
  const limit = whole ? Infinity : SHOWN;
  const pieces = cutTo(props.pieces ?? found(props.text.slice(0, limit), props.find ?? ""), limit);
  return (
    <div class="block">
      <pre dir="auto" tabIndex={0} role="group" aria-label={props.label}>
        {props.text === "" && <span class="muted">(empty)</span>}
        {pieces.map((piece, n) => drawn(piece, n, props.whitespace ?? false))}
      </pre>
      {!whole && props.text.length > SHOWN && (
        <button type="button" onClick={() => setWhole(true)}>
          Show all {props.text.length.toLocaleString("en")} characters
        </button>
      )}
    </div>
  );
}

function drawn(piece: Piece, key: number, whitespace: boolean) {
  const children = safe(piece.text, whitespace);
  if (piece.mark === "removed") return <del key={key}>{children}</del>;
  if (piece.mark === "added") return <ins key={key}>{children}</ins>;
  if (piece.mark === "found") return <mark key={key}>{children}</mark>;
  return <span key={key}>{children}</span>;
}

function found(text: string, find: string): Piece[] {
  if (!find) return [{ text }];
  const pieces: Piece[] = [];
  const [hay, needle] = [text.toLowerCase(), find.toLowerCase()];
  let from = 0;
  // Lower case can change a text's length (İ); positions would then be wrong.
  for (let at = hay.length === text.length ? hay.indexOf(needle) : -1; at >= 0 && pieces.length < 2 * MARKED; at = hay.indexOf(needle, from)) {
    pieces.push({ text: text.slice(from, at) }, { text: text.slice(at, at + needle.length), mark: "found" });
    from = at + needle.length;
  }
  return [...pieces, { text: text.slice(from) }];
}

function cutTo(pieces: Piece[], limit: number): Piece[] {
  const kept: Piece[] = [];
  let left = limit;
  for (const piece of pieces) {
    if (left <= 0) break;
    kept.push({ ...piece, text: piece.text.slice(0, left) });
    left -= piece.text.length;
  }
  return kept;
}

/** Text nodes, with special characters as marked symbols. */
function safe(text: string, whitespace = false): ComponentChildren {
  const shown = whitespace ? text.replace(/ /g, "·").replace(/\t/g, "→\t").replace(/\n/g, "¶\n") : text;
  const out: ComponentChildren[] = [];
  let from = 0;
  for (const match of shown.matchAll(SPECIAL)) {
    const code = (match[0].codePointAt(0) ?? 0).toString(16).toUpperCase().padStart(4, "0");
    out.push(shown.slice(from, match.index), <span class="special" title={`U+${code}`}>{symbol(match[0])}</span>);
    from = match.index + match[0].length;
  }
  if (!out.length) return shown;
  return [...out, shown.slice(from)];
}
