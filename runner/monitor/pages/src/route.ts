/**
 * Where one is, and everything one has chosen, is in the address: `#/runs/<id>/completions?step=5&q=…`.
 * It is behind the `#`, so the server needs one page only and a copied link shows the same thing.
 */
import { useEffect, useMemo, useState } from "preact/hooks";

export interface Route {
  path: string[];
  query: URLSearchParams;
}

export type Values = Record<string, string | number | null | undefined>;

const listeners = new Set<() => void>();

export function current(): Route {
  const [path = "", query = ""] = location.hash.replace(/^#/, "").split(/\?(.*)/s);
  return { path: path.split("/").filter(Boolean).map(decode), query: new URLSearchParams(query) };
}

export function useRoute(): Route {
  const [hash, setHash] = useState(location.hash);
  useEffect(() => {
    const changed = () => setHash(location.hash);
    listeners.add(changed);
    changed(); // it may have changed between the first drawing and now
    return () => void listeners.delete(changed);
  }, []);
  return useMemo(current, [hash]);
}

export function href(path: (string | number)[], query: Values = {}): string {
  const text = queryText(new URLSearchParams(), query);
  return `#/${path.map((part) => encodeURIComponent(part)).join("/")}${text}`;
}

export function go(path: (string | number)[], query: Values = {}): void {
  location.hash = href(path, query);
}

/** Changes some values of the address in place; null or "" takes one out. Steps of a slider leave no history. */
export function change(values: Values, history: "push" | "replace" = "replace"): void {
  const { path, query } = current();
  const target = `#/${path.map(encodeURIComponent).join("/")}${queryText(query, values)}`;
  if (target === location.hash) return;
  if (history === "push") window.history.pushState(null, "", target);
  else window.history.replaceState(null, "", target);
  tell();
}

function queryText(query: URLSearchParams, values: Values): string {
  for (const [name, value] of Object.entries(values)) {
    if (value === null || value === undefined || value === "") query.delete(name);
    else query.set(name, String(value));
  }
  const text = query.toString();
  return text && `?${text}`;
}

function decode(part: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    return part; // a half-typed escape
  }
}

function tell(): void {
  for (const listener of [...listeners]) listener();
}

window.addEventListener("hashchange", tell);
window.addEventListener("popstate", tell);
