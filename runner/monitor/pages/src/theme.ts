/** Light or dark: as the system has it, unless chosen here. Charts are drawn anew when it changes. */
import { useEffect, useState } from "preact/hooks";

export type Theme = "light" | "dark";
const KEY = "runner-theme";
const system = window.matchMedia("(prefers-color-scheme: dark)");
const listeners = new Set<() => void>();

export function theme(): Theme {
  const chosen = stored();
  return chosen ?? (system.matches ? "dark" : "light");
}

export function toggle(): void {
  const next: Theme = theme() === "dark" ? "light" : "dark";
  try {
    localStorage.setItem(KEY, next);
  } catch {
    // private windows may refuse; the choice then lasts as long as the page
  }
  apply(next);
}

export function useTheme(): Theme {
  const [shown, setShown] = useState(theme());
  useEffect(() => {
    const listener = () => setShown(document.documentElement.dataset["theme"] as Theme);
    listeners.add(listener);
    return () => void listeners.delete(listener);
  }, []);
  return shown;
}

export function apply(next: Theme = theme()): void {
  document.documentElement.dataset["theme"] = next;
  for (const listener of [...listeners]) listener();
}

function stored(): Theme | null {
  try {
    const value = localStorage.getItem(KEY);
    return value === "dark" || value === "light" ? value : null;
  } catch {
    return null;
  }
}

system.addEventListener("change", () => apply());
