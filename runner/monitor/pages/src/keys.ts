/** Keys that work anywhere on a page but in a text field. What is in force, `?` lists. */
import { useEffect, useRef } from "preact/hooks";

export interface Key {
  /** As in KeyboardEvent.key. */
  keys: string[];
  does: string;
  run: (event: KeyboardEvent) => void;
}

const stack: { current: Key[] }[] = [];

export function useKeys(keys: Key[]): void {
  const held = useRef(keys);
  held.current = keys;
  useEffect(() => {
    stack.push(held);
    return () => void stack.splice(stack.indexOf(held), 1);
  }, []);
}

export function inForce(): Key[] {
  return stack.flatMap((held) => held.current);
}

function typing(target: EventTarget | null): boolean {
  if (!(target instanceof HTMLElement)) return false;
  if (target instanceof HTMLInputElement) return !["checkbox", "radio", "button"].includes(target.type);
  return target instanceof HTMLTextAreaElement || target instanceof HTMLSelectElement || target.closest("dialog") !== null;
}

/** Enter and arrows belong to what has the focus: a link, a button, a text that scrolls. */
function taken(event: KeyboardEvent): boolean {
  const target = event.target;
  if (!(target instanceof HTMLElement)) return false;
  return event.key === "Enter" && target.closest("a, button, summary") !== null;
}

window.addEventListener("keydown", (event) => {
  if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "Escape" && typing(event.target)) return (event.target as HTMLElement).blur();
  if (typing(event.target) || taken(event)) return;
  for (const held of [...stack].reverse()) {
    const key = held.current.find((candidate) => candidate.keys.includes(event.key));
    if (!key) continue;
    event.preventDefault();
    key.run(event);
    return;
  }
});
