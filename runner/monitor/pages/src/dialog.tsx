/** The two dialogs: which keys there are, and "really?". */
import { useEffect, useRef } from "preact/hooks";
import { inForce, type Key } from "./keys";

export function KeyHelp({ close }: { close: () => void }) {
  const known = new Map<string, Key>();
  for (const key of inForce()) known.set(key.keys.join(" "), key);
  return (
    <Modal close={close} label="Keys">
      <h2>Keys on this page</h2>
      <dl class="keys">
        {[...known.values()].toSorted((a, b) => Number(isTab(a)) - Number(isTab(b))).map((key) => (
          <div key={key.does}>
            <dt>{key.keys.map((one) => <kbd key={one}>{NAMES[one] ?? one}</kbd>)}</dt>
            <dd>{key.does}</dd>
          </div>
        ))}
        <div><dt><kbd>Tab</kbd> <kbd>←</kbd> <kbd>→</kbd></dt><dd>in a chart: moves the cursor from step to step</dd></div>
      </dl>
      <button type="button" onClick={close}>Close</button>
    </Modal>
  );
}

function isTab(key: Key): boolean {
  return /^\d$/.test(key.keys[0] ?? "");
}

const NAMES: Record<string, string> = { ArrowLeft: "←", ArrowRight: "→", ArrowUp: "↑", ArrowDown: "↓", Escape: "Esc" };

export function Confirm(props: { title: string; text: string; yes: string; act: () => void; close: () => void }) {
  const agreed = () => {
    props.close();
    props.act();
  };
  return (
    <Modal close={props.close} label={props.title}>
      <h2>{props.title}</h2>
      <p>{props.text}</p>
      <p class="buttons">
        <button type="button" class="strong" onClick={agreed}>{props.yes}</button>
        <button type="button" onClick={props.close}>Leave it as it is</button>
      </p>
    </Modal>
  );
}

function Modal(props: { close: () => void; label: string; children: preact.ComponentChildren }) {
  const ref = useRef<HTMLDialogElement>(null);
  useEffect(() => ref.current?.showModal(), []);
  return <dialog ref={ref} aria-label={props.label} onClose={props.close}>{props.children}</dialog>;
}
