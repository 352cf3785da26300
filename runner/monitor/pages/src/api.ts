/** Reading the API: one answer (`useApi`), or a list that goes on from a cursor (`usePages`). */
import { useCallback, useEffect, useRef, useState } from "preact/hooks";
import { onChange } from "./live";
import type { Values } from "./route";
import type { Cursor } from "./types";

export class ApiError extends Error {
  constructor(readonly status: number, message: string, readonly code = "") {
    super(message);
  }
}

export interface Loaded<T> {
  data: T | undefined;
  error: ApiError | undefined;
  reload: () => void;
}

export function url(path: (string | number)[], query: Values = {}): string {
  const params = new URLSearchParams();
  for (const [name, value] of Object.entries(query)) {
    if (value !== null && value !== undefined && value !== "") params.set(name, String(value));
  }
  const text = params.toString();
  return `/api/v1/${path.map((part) => encodeURIComponent(part)).join("/")}${text && `?${text}`}`;
}

export async function get<T>(address: string, signal?: AbortSignal): Promise<T> {
  return answer<T>(await ask(address, { signal: signal ?? null }));
}

export async function post<T>(address: string, body: unknown = {}): Promise<T> {
  return request<T>("POST", address, body);
}

export async function request<T>(method: string, address: string, body?: unknown): Promise<T> {
  const sent = body === undefined ? {} : { headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
  return answer<T>(await ask(address, { method, ...sent }));
}

let elsewhere: ((address: string) => Promise<Response>) | null = null;

/** Answers come from there, not from a server. */
export function answerWith(answers: (address: string) => Promise<Response>): void {
  elsewhere = answers;
}

/** Whether this is a file with one run in it. */
export function isFile(): boolean {
  return elsewhere !== null;
}

async function ask(address: string, init: RequestInit): Promise<Response> {
  if (elsewhere) return elsewhere(address);
  try {
    return await fetch(address, { credentials: "same-origin", ...init });
  } catch (error) {
    if (error instanceof DOMException && error.name === "AbortError") throw error;
    throw new ApiError(0, "The monitor does not answer. Is `runner ui` or `runner watch` still running?");
  }
}

async function answer<T>(response: Response): Promise<T> {
  if (response.ok) return (await response.json()) as T;
  const { detail, code } = problem(await response.text());
  throw new ApiError(response.status, detail || response.statusText, code);
}

function problem(text: string): { detail: string; code: string } {
  try {
    const { detail, code } = JSON.parse(text) as { detail?: unknown; code?: unknown };
    return { detail: typeof detail === "string" ? detail : JSON.stringify(detail ?? ""), code: String(code ?? "") };
  } catch {
    return { detail: text.slice(0, 500), code: "" };
  }
}

/** Asks again whenever `run` ("*": any run) changes. A new address drops the old answer: no page shows another's. */
export function useApi<T>(address: string | null, run: string | null = null): Loaded<T> {
  const [held, setHeld] = useState<{ address: string | null; data?: T | undefined; error?: ApiError | undefined }>({ address });
  const [round, setRound] = useState(0);
  const reload = useCallback(() => setRound((n) => n + 1), []);
  useEffect(() => (run ? onChange(run, reload) : undefined), [run, reload]);
  useEffect(() => {
    if (address === null) return undefined;
    const abort = new AbortController();
    get<T>(address, abort.signal)
      .then((data) => setHeld({ address, data, error: undefined }))
      .catch((error: unknown) => {
        if (error instanceof ApiError) setHeld((old) => ({ address, data: old.address === address ? old.data : undefined, error }));
      });
    return () => abort.abort();
  }, [address, round]);
  const mine = held.address === address;
  return { data: mine ? held.data : undefined, error: mine ? held.error : undefined, reload };
}

export interface Pages<T> {
  rows: T[];
  loaded: boolean;
  more: (() => void) | null;
  error: ApiError | undefined;
}

interface HeldPages<T> {
  address: string | null;
  rows: T[];
  next: Cursor;
  loaded: boolean;
  error?: ApiError | undefined;
}

/**
 * Rows of `field` under `address`, page after page. A change of `run` asks for the last page again, so that what was
 * read stays in place while new rows arrive behind it.
 */
export function usePages<T>(address: string | null, field: string, run: string | null = null, cursorName = "after"): Pages<T> {
  const empty = (): HeldPages<T> => ({ address, rows: [], next: null, loaded: false });
  const [held, setHeld] = useState<HeldPages<T>>(empty);
  const from = useRef<{ address: string | null; cursor: Cursor; before: number }>({ address, cursor: null, before: 0 });

  const load = useCallback(async (cursor: Cursor, before: number) => {
    if (address === null) return;
    from.current = { address, cursor, before };
    const asked = cursor === null ? address : `${address}${address.includes("?") ? "&" : "?"}${cursorName}=${encodeURIComponent(cursor)}`;
    try {
      const page = await get<Record<string, unknown>>(asked);
      if (from.current.address !== address || from.current.cursor !== cursor) return;
      const rows = page[field] as T[];
      const next = page["next"] as Cursor;
      setHeld((old) => ({ address, rows: [...(old.address === address ? old.rows.slice(0, before) : []), ...rows], next, loaded: true }));
      if (rows.length === 0 && next !== null) void load(next, before); // it searched for as long as one page may
    } catch (error) {
      if (error instanceof ApiError) setHeld((old) => ({ ...(old.address === address ? old : empty()), error, loaded: true }));
    }
  }, [address, field, cursorName]);

  useEffect(() => void load(null, 0), [load]);
  useEffect(() => (run ? onChange(run, () => void load(from.current.cursor, from.current.before)) : undefined), [run, load]);

  const mine = held.address === address ? held : empty();
  const more = mine.next === null ? null : () => void load(mine.next, mine.rows.length);
  return { rows: mine.rows, loaded: mine.loaded, more, error: mine.error };
}
