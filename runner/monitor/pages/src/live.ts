/**
 * What has changed, as it happens. The server's stream carries only ids of changed runs; pages then ask for what they
 * show. A browser allows six connections to a host, so of all tabs one holds the stream (a Web Lock) and tells the rest.
 */
import { useEffect, useState } from "preact/hooks";

export type Status = { kind: "connecting" | "live" | "lost"; since: number; note: string };
type Message = { changed: string[] } | { status: Status } | { ask: true };

const RETRY_MS = [1000, 2000, 4000, 8000];
const STREAM = "/api/v1/events";

const listeners = new Set<(runs: string[]) => void>();
const watchers = new Set<() => void>();
const channel = "BroadcastChannel" in window ? new BroadcastChannel("runner-live") : null;
let status: Status = { kind: "connecting", since: Date.now(), note: "" };
let failures = 0;
let leads = false;

/** Calls back when the run changed; "*" means any. After a lost connection everything counts as changed. */
export function onChange(run: string, callback: () => void): () => void {
  const listener = (runs: string[]) => {
    if (run === "*" || runs.includes("*") || runs.includes(run)) callback();
  };
  listeners.add(listener);
  return () => void listeners.delete(listener);
}

export function useStatus(): Status {
  const [, redraw] = useState(0);
  useEffect(() => {
    const watcher = () => redraw((n) => n + 1);
    watchers.add(watcher);
    watcher(); // it may have changed between the first drawing and now
    return () => void watchers.delete(watcher);
  }, []);
  return status;
}

export function start(): void {
  if (!navigator.locks || !channel) return listen();
  channel.onmessage = (event: MessageEvent<Message>) => take(event.data);
  channel.postMessage({ ask: true });
  void navigator.locks.request("runner-live", () => {
    listen();
    return new Promise(() => undefined); // held until the tab closes
  });
}

function listen(): void {
  leads = true;
  const stream = new EventSource(STREAM);
  stream.onopen = connected;
  stream.addEventListener("changed", (event) => {
    send({ changed: (JSON.parse((event as MessageEvent<string>).data) as { runs: string[] }).runs });
  });
  stream.onerror = () => {
    stream.close();
    if (status.kind !== "lost") send({ status: { kind: "lost", since: Date.now(), note: "" } });
    window.setTimeout(listen, RETRY_MS[Math.min(failures++, RETRY_MS.length - 1)]);
  };
}

function connected(): void {
  failures = 0;
  const away = status.kind === "lost" ? Math.round((Date.now() - status.since) / 1000) : null;
  const note = away === null ? "" : `Connected again after ${away} s; what you see has been brought up to date.`;
  send({ status: { kind: "live", since: Date.now(), note } });
  if (away !== null) send({ changed: ["*"] });
}

function send(message: Message): void {
  channel?.postMessage(message);
  take(message);
}

function take(message: Message): void {
  if ("ask" in message) {
    if (leads) channel?.postMessage({ status });
    return;
  }
  if ("changed" in message) {
    for (const listener of [...listeners]) listener(message.changed);
    return;
  }
  status = message.status;
  for (const watcher of [...watchers]) watcher();
}
