/** What differs between two texts, word by word: Myers, "An O(ND) Difference Algorithm" (1986). */
import type { Piece } from "./text";

/** Differences beyond which the rest between common beginning and end counts as changed: the search is quadratic. */
const MOST = 1500;

export interface Sides {
  left: Piece[];
  right: Piece[];
}

export function diffWords(left: string, right: string): Sides {
  const a = words(left);
  const b = words(right);
  let start = 0;
  while (start < a.length && start < b.length && a[start] === b[start]) start++;
  let end = 0;
  while (end < a.length - start && end < b.length - start && a[a.length - 1 - end] === b[b.length - 1 - end]) end++;
  const keepA = new Uint8Array(a.length).fill(1, 0, start).fill(1, a.length - end);
  const keepB = new Uint8Array(b.length).fill(1, 0, start).fill(1, b.length - end);
  for (const [x, y] of common(a.slice(start, a.length - end), b.slice(start, b.length - end))) {
    keepA[start + x] = 1;
    keepB[start + y] = 1;
  }
  return { left: pieces(a, keepA, "removed"), right: pieces(b, keepB, "added") };
}

/** Unified diff lines with a class each. */
export function diffLines(text: string): { line: string; kind: string }[] {
  return text.split("\n").map((line) => {
    if (line.startsWith("+++") || line.startsWith("---")) return { line, kind: "file" };
    if (line.startsWith("@@")) return { line, kind: "hunk" };
    return { line, kind: line.startsWith("+") ? "added" : line.startsWith("-") ? "removed" : "" };
  });
}

function words(text: string): string[] {
  return text.match(/\s+|[\p{L}\p{M}\p{N}_]+|[^\s\p{L}\p{M}\p{N}_]/gu) ?? [];
}

function pieces(tokens: string[], keep: Uint8Array, mark: string): Piece[] {
  const out: Piece[] = [];
  let from = 0;
  for (let i = 1; i <= tokens.length; i++) {
    if (i < tokens.length && keep[i] === keep[from]) continue;
    const text = tokens.slice(from, i).join("");
    if (text) out.push(keep[from] ? { text } : { text, mark });
    from = i;
  }
  return out;
}

/** Pairs of positions of a longest common subsequence, last first; none when there are too many differences. */
function common(a: string[], b: string[]): [number, number][] {
  const trace: Int32Array[] = [];
  const most = Math.min(a.length + b.length, MOST);
  const reach = new Int32Array(2 * most + 3);
  const middle = most + 1;
  for (let d = 0; d <= most; d++) {
    trace.push(reach.slice(middle - d - 1, middle + d + 2));
    for (let k = -d; k <= d; k += 2) {
      const x = follow(a, b, reach, middle, d, k);
      if (x >= a.length && x - k >= b.length) return walkBack(trace, a.length, b.length);
    }
  }
  return [];
}

function follow(a: string[], b: string[], reach: Int32Array, middle: number, d: number, k: number): number {
  const below = reach[middle + k + 1] ?? 0;
  const beside = reach[middle + k - 1] ?? 0;
  let x = k === -d || (k !== d && beside < below) ? below : beside + 1;
  while (x < a.length && x - k < b.length && a[x] === b[x - k]) x++;
  reach[middle + k] = x;
  return x;
}

function walkBack(trace: Int32Array[], endA: number, endB: number): [number, number][] {
  const pairs: [number, number][] = [];
  let [x, y] = [endA, endB];
  for (let d = trace.length - 1; d >= 0; d--) {
    const reach = trace[d] as Int32Array;
    const at = (k: number) => reach[k + d + 1] ?? 0;
    const k = x - y;
    const from = k === -d || (k !== d && at(k - 1) < at(k + 1)) ? k + 1 : k - 1;
    const [fromX, fromY] = d === 0 ? [0, 0] : [at(from), at(from) - from];
    while (x > fromX && y > fromY && x > 0 && y > 0) pairs.push([--x, --y]);
    [x, y] = [fromX, fromY];
  }
  return pairs;
}
