/** The frame around every page: where one can go, how the connection stands, which keys there are. */
import { render } from "preact";
import { useEffect, useState } from "preact/hooks";
import { isFile, url, useApi } from "./api";
import { KeyHelp } from "./dialog";
import { useKeys } from "./keys";
import { late } from "./late";
import { start, useStatus } from "./live";
import { AlertsPage } from "./pages/alerts";
import { JobsPage } from "./pages/jobs";
import { RunPage } from "./pages/run";
import { Empty } from "./parts";
import { go, href, useRoute } from "./route";
import { Inline, plain } from "./text";
import { apply, toggle, useTheme } from "./theme";
import type { Home } from "./types";
import "./style.css";

const ComparePage = late(() => import("./pages/compare").then((module) => module.ComparePage));

const PLACES: [string, string][] = [["", "Jobs"], ["compare", "Compare runs"], ["alerts", "Alerts"]];

function App() {
  const { path } = useRoute();
  const [help, setHelp] = useState(false);
  const home = useApi<Home>(url(["home"]), "*");
  useKeys([
    { keys: ["?"], does: "shows the keys", run: () => setHelp(true) },
    { keys: ["/"], does: "goes to the search field", run: focusSearch },
    { keys: ["t"], does: "light or dark", run: toggle },
    { keys: ["g"], does: "goes to the jobs", run: () => go([]) },
  ]);
  useEffect(() => {
    document.title = path.length > 1 ? `${plain(path.slice(1).join(" · "), 80)} – grpo-runner` : "grpo-runner";
    setHelp(false);
  }, [path.join("/")]);
  return (
    <>
      <a class="skip" href="#main" onClick={skip}>Skip to the content</a>
      <Header path={path} home={home.data} showKeys={() => setHelp(true)} />
      <main id="main" tabIndex={-1}>
        {home.data && <Warnings home={home.data} />}
        {page(path, home.data)}
      </main>
      {help && <KeyHelp close={() => setHelp(false)} />}
    </>
  );
}

function page(path: string[], home: Home | undefined) {
  const rights = home?.rights ?? [];
  if (path.length === 0) return <JobsPage home={home} />;
  if (path[0] === "runs" && path[1]) return <RunPage key={path[1]} id={path[1]} tab={path[2] ?? "overview"} rights={rights} />;
  if (path[0] === "compare") return <ComparePage />;
  if (path[0] === "alerts") return <AlertsPage />;
  return <Empty title="There is no such page"><p><a href={href([])}>Jobs and runs</a></p></Empty>;
}

function Warnings({ home }: { home: Home }) {
  return (
    <>
      {!home.token && <p class="warning">This monitor asks for no token: whoever reaches its address can read everything{home.rights.includes("control") && ", stop and start runs"}.</p>}
      {home.problems.map((problem) => <p class="warning" key={problem}><Inline text={problem} limit={500} /></p>)}
    </>
  );
}

function Header({ path, home, showKeys }: { path: string[]; home: Home | undefined; showKeys: () => void }) {
  const theme = useTheme();
  const here = path[0] === "runs" ? "" : path[0] ?? "";
  return (
    <header class="top">
      <a class="brand" href={isFile() ? "#main" : href([])} onClick={isFile() ? skip : undefined}>grpo-runner</a>
      <nav aria-label="Pages">
        {!isFile() && PLACES.map(([place, name]) => (
          <a key={place} href={href(place ? [place] : [])} aria-current={place === here && path[0] !== "runs" ? "page" : undefined}>{name}</a>
        ))}
      </nav>
      <span class="room" />
      {!isFile() && <Connection />}
      {home && <span class="where muted" title={plain(home.home)}><bdi>{plain(home.home.split("/").at(-1) || home.home, 60)}</bdi></span>}
      <button type="button" onClick={toggle} aria-label={theme === "dark" ? "light theme" : "dark theme"}>{theme === "dark" ? "☀" : "☾"}</button>
      <button type="button" onClick={showKeys} aria-label="keys">?</button>
    </header>
  );
}

const WORDS = { connecting: "connecting…", live: "live", lost: "connection lost; trying again" };

function Connection() {
  const status = useStatus();
  const [shown, setShown] = useState(true);
  useEffect(() => {
    setShown(true);
    const timer = window.setTimeout(() => setShown(false), 8000);
    return () => window.clearTimeout(timer);
  }, [status.since]);
  return (
    <span class={`connection ${status.kind}`} role="status">
      <i aria-hidden="true" /> {WORDS[status.kind]}
      {shown && status.note && <span class="note">{status.note}</span>}
    </span>
  );
}

function focusSearch(): void {
  const field = document.querySelector<HTMLInputElement>("input[data-search]");
  field?.focus();
  field?.select();
}

function skip(event: Event): void {
  event.preventDefault();
  document.getElementById("main")?.focus();
}

apply();
if (!isFile()) start();
render(<App />, document.getElementById("app") as HTMLElement);
