/**
 * A line chart over steps that can be read without eyes or a mouse: a title, a keyboard cursor that speaks, a table of
 * the same figures. Lines differ by dash as well as by colour. All charts of a page share their cursor.
 */
import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import uPlot from "uplot";
import "uplot/dist/uPlot.min.css";
import { number } from "./format";
import { Inline, plain } from "./text";
import { useTheme } from "./theme";
import type { Marker, Series } from "./types";

export interface Line {
  label: string;
  series: Series | undefined;
}

/** A line that has values, with its place among all of the chart's, which is its colour and dash. */
interface Known extends Line {
  place: number;
}

export interface ChartProps {
  title: string;
  /** Beside the title, as a weight. */
  note?: string | undefined;
  /** How to read it, in a sentence. */
  help: string;
  lines: Line[];
  markers?: Marker[];
  /** Bounds that shall be in view, as 0 and 1 of a share. */
  range?: [number, number];
  format?: (value: number) => string;
  onStep?: (step: number) => void;
}

const HEIGHT = 200;
const DASHES = [[], [6, 3], [2, 2], [8, 3, 2, 3], [1, 3], [10, 4]];
const ROWS = 25;
const sync = uPlot.sync("steps");

interface Table {
  steps: number[];
  columns: (number | null)[][];
  /** Lowest and highest of each bucket; null for a line whose every value is there. */
  bands: ([(number | null)[], (number | null)[]] | null)[];
  /** Running means of lines with many values, which are then drawn faint behind them. */
  means: ((number | null)[] | null)[];
}

const MANY = 40;
/** Of a line's values, those that a running mean looks back over. */
const SPAN = 1 / 12;

/** Exponential running mean, corrected for its beginning; null where a line is short or smooth by itself. */
function running(values: (number | null)[]): (number | null)[] | null {
  const known = values.filter((value) => value !== null);
  const count = known.length;
  const way = known.reduce((sum, value, n) => sum + Math.abs(value - (known[n - 1] ?? value)), 0);
  if (count < MANY || way <= 2 * (Math.max(...known) - Math.min(...known))) return null;
  const share = 2 / (Math.max(5, count * SPAN) + 1);
  let [sum, weight] = [0, 0];
  return values.map((value) => {
    if (value === null) return null;
    [sum, weight] = [sum * (1 - share) + value * share, weight * (1 - share) + share];
    return sum / weight;
  });
}

export function Chart(props: ChartProps) {
  const known = props.lines.map((line, place) => ({ ...line, place })).filter((line) => line.series && line.series.steps.length > 0);
  const table = useMemo(() => align(known.map((line) => line.series as Series)), [props.lines]);
  const [asTable, setAsTable] = useState(false);
  const [at, setAt] = useState<number | null>(null);
  const nonfinite = known.reduce((sum, line) => sum + (line.series?.nonfinite ?? 0), 0);
  return (
    <figure class="chart" aria-label={plain(props.title)}>
      <figcaption>
        <h3><Inline text={props.title} limit={60} /> {props.note && <small class="muted">{props.note}</small>}</h3>
        <Latest lines={known} table={table} at={at} format={props.format ?? number} />
        {known.length > 0 && (
          <button type="button" class="small" aria-pressed={asTable} onClick={() => setAsTable(!asTable)}>{asTable ? "chart" : "table"}</button>
        )}
      </figcaption>
      {known.length === 0 && <p class="muted nothing">No values yet.</p>}
      {known.length > 0 && (asTable ? <Figures {...props} lines={known} table={table} /> : <Plot {...props} lines={known} table={table} onCursor={setAt} />)}
      {nonfinite > 0 && <p class="warn-text">{nonfinite} values are NaN or infinite and are not drawn.</p>}
      <p class="help">{props.help}</p>
    </figure>
  );
}

/** Each line's key, with its value at the cursor, or its last. */
function Latest(props: { lines: Known[]; table: Table; at: number | null; format: (value: number) => string }) {
  const shown = (n: number) => {
    const column = props.table.columns[n] ?? [];
    const value = props.at === null ? column.findLast((one) => one !== null) : column[props.at];
    return value === undefined || value === null ? "–" : props.format(value);
  };
  return (
    <span class="latest">
      {props.lines.map((line, n) => (
        <span key={line.label} class={`key line-${line.place % 6}`}>
          <svg viewBox="0 0 18 4" aria-hidden="true"><line x1="0" y1="2" x2="18" y2="2" stroke-dasharray={(DASHES[line.place % 6] ?? []).join(" ")} /></svg>
          <Inline text={line.label} limit={30} /> <b class="num">{shown(n)}</b>
        </span>
      ))}
      {props.at !== null && <span class="num muted">step {props.table.steps[props.at]}</span>}
    </span>
  );
}

type PlotProps = Omit<ChartProps, "lines"> & { lines: Known[]; table: Table; onCursor: (at: number | null) => void };

function Plot(props: PlotProps) {
  const place = useRef<HTMLDivElement>(null);
  const plot = useRef<uPlot | null>(null);
  const [said, setSaid] = useState("");
  const theme = useTheme();
  const markers = useRef<Marker[]>([]);
  markers.current = props.markers ?? [];
  const shape = props.lines.map((line, n) => `${line.label}${props.table.bands[n] ? " band" : ""}${props.table.means[n] ? " mean" : ""}`).join("\u0000");

  useEffect(() => {
    const root = place.current as HTMLDivElement;
    const made = new uPlot(options(props, root.clientWidth, markers), data(props.table), root);
    plot.current = made;
    const resized = new ResizeObserver(() => made.setSize({ width: root.clientWidth, height: HEIGHT }));
    resized.observe(root);
    return () => {
      resized.disconnect();
      made.destroy();
    };
  }, [theme, shape]);
  useEffect(() => plot.current?.setData(data(props.table)), [props.table]);
  useEffect(() => plot.current?.redraw(false), [props.markers]);

  const tell = (index: number) => {
    const step = props.table.steps[index];
    if (step === undefined || !plot.current) return;
    plot.current.setCursor({ left: plot.current.valToPos(step, "x"), top: 10 });
    const near = markers.current.filter((marker) => marker.step === step).map((marker) => plain(marker.text));
    const values = props.lines.map((line, n) => `${plain(line.label)} ${(props.format ?? number)(props.table.columns[n]?.[index] ?? NaN)}`);
    setSaid([`step ${step}`, ...values, ...near].join(", "));
  };
  const pressed = (event: KeyboardEvent) => {
    const last = props.table.steps.length - 1;
    const at = plot.current?.cursor.idx ?? last;
    const to = { ArrowLeft: at - 1, ArrowRight: at + 1, PageUp: at - 10, PageDown: at + 10, Home: 0, End: last }[event.key];
    if (to !== undefined) {
      event.preventDefault();
      tell(Math.max(0, Math.min(last, to)));
    } else if (event.key === "Enter" && props.onStep && props.table.steps[at] !== undefined) {
      event.preventDefault();
      props.onStep(props.table.steps[at]);
    }
  };
  const clicked = () => {
    const step = props.table.steps[plot.current?.cursor.idx ?? -1];
    if (step !== undefined) props.onStep?.(step);
  };
  const how = `${plain(props.title)}: line chart over steps. Arrow keys move the cursor${props.onStep ? ", Enter shows the step's completions" : ""}.`;
  return (
    <>
      <div
        ref={place} class={`plot ${props.onStep ? "opens" : ""}`} tabIndex={0} role="application" aria-label={how}
        onKeyDown={pressed} onClick={clicked}
      />
      <p class="for-ears" aria-live="polite">{said}</p>
    </>
  );
}

function Figures(props: ChartProps & { table: Table }) {
  const pages = Math.max(1, Math.ceil(props.table.steps.length / ROWS));
  const [page, setPage] = useState(pages - 1);
  const from = Math.min(page, pages - 1) * ROWS;
  const format = props.format ?? number;
  return (
    <div class="figures" tabIndex={0} role="group" aria-label={`${plain(props.title)} as a table`}>
      <table>
        <thead><tr><th scope="col">step</th>{props.lines.map((line) => <th scope="col" key={line.label}><Inline text={line.label} /></th>)}</tr></thead>
        <tbody>
          {props.table.steps.slice(from, from + ROWS).map((step, n) => (
            <tr key={step}>
              <th scope="row" class="num">{step}</th>
              {props.table.columns.map((column, c) => <td class="num" key={c}>{column[from + n] == null ? "–" : format(column[from + n] as number)}</td>)}
            </tr>
          ))}
        </tbody>
      </table>
      <p>
        <button type="button" class="small" disabled={from === 0} onClick={() => setPage(Math.min(page, pages - 1) - 1)}>earlier</button>{" "}
        <button type="button" class="small" disabled={page >= pages - 1} onClick={() => setPage(page + 1)}>later</button>
      </p>
    </div>
  );
}

/** Series over one axis of steps; where one has no value at a step, null. */
function align(series: Series[]): Table {
  const steps = [...new Set(series.flatMap((one) => one.steps))].sort((a, b) => a - b);
  const spread = (one: Series, values: (number | null)[]) => {
    const at = new Map(one.steps.map((step, n) => [step, values[n] ?? null]));
    return steps.map((step) => at.get(step) ?? null);
  };
  const columns = series.map((one) => spread(one, one.values));
  const bucketed = (one: Series) => one.values.some((value, n) => one.lows[n] !== value || one.highs[n] !== value);
  return {
    steps,
    columns,
    means: columns.map(running),
    bands: series.map((one) => (bucketed(one) ? [spread(one, one.lows), spread(one, one.highs)] : null)),
  };
}

function data(table: Table): uPlot.AlignedData {
  const lines = table.columns.map((column, n) => table.means[n] ?? column);
  const faint = table.columns.filter((_, n) => table.means[n]);
  return [table.steps, ...lines, ...faint, ...table.bands.flatMap((band) => band ?? [])] as uPlot.AlignedData;
}

/** The lines' bands: two invisible series each, behind the lines, with the room between them filled. */
function bandSeries({ table, lines }: PlotProps, colour: (name: string) => string): { series: uPlot.Series[]; bands: uPlot.Band[] } {
  const bands: uPlot.Band[] = [];
  let next = 1 + table.columns.length + table.means.filter(Boolean).length;
  table.bands.forEach((band, n) => {
    if (!band) return;
    bands.push({ series: [next + 1, next], fill: `${colour(`--line-${(lines[n]?.place ?? n) % 6}`)}26` });
    next += 2;
  });
  return { bands, series: bands.flatMap(() => [BAND_EDGE, BAND_EDGE]) };
}

const BAND_EDGE: uPlot.Series = { width: 0, spanGaps: true, points: { show: false } };

function options(props: PlotProps, width: number, markers: { current: Marker[] }): uPlot.Options {
  const style = getComputedStyle(document.documentElement);
  const colour = (name: string) => style.getPropertyValue(name).trim();
  const axis = {
    stroke: colour("--quiet"), font: `11px ${style.fontFamily || "sans-serif"}`,
    grid: { stroke: colour("--grid"), width: 1 }, ticks: { show: false },
  };
  const { series, bands } = bandSeries(props, colour);
  return {
    width, height: HEIGHT, bands, legend: { show: false }, padding: [8, 10, 0, 0],
    cursor: { sync: { key: sync.key, setSeries: false }, drag: { x: false, y: false }, points: { size: 7 } },
    scales: { x: { time: false, range: (_, _low, high) => [0, Math.max(high ?? 1, 1)] }, y: { range: (_, low, high) => bounds(low, high, props.range) } },
    axes: [
      { ...axis, size: 20, space: 60, label: "step", labelSize: 14, labelGap: 0, labelFont: axis.font, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 50000] },
      { ...axis, size: 48, space: 32, values: (_, ticks) => ticks.map((tick) => (props.format ?? short)(tick)) },
    ],
    series: [{}, ...props.lines.map(({ place }) => ({
      stroke: colour(`--line-${place % 6}`), width: 1.75, dash: DASHES[place % 6] ?? [], spanGaps: true,
      points: { show: (self: uPlot, at: number) => few(self.data[at]) },
    })), ...props.lines.filter((_, n) => props.table.means[n]).map(({ place }) => ({
      stroke: `${colour(`--line-${place % 6}`)}55`, width: 1, spanGaps: true, points: { show: false },
    })), ...series],
    hooks: {
      drawClear: [(self) => drawMarkers(self, markers.current, colour)],
      draw: [(self) => drawSigns(self, markers.current, colour)],
      setCursor: [(self) => props.onCursor(self.cursor.idx ?? null)],
    },
  };
}

function few(values: ArrayLike<number | null | undefined> | undefined): boolean {
  return !!values && Array.from(values).filter((value) => value != null).length <= 12;
}

function short(value: number): string {
  return Math.abs(value) < 0.001 && value !== 0 ? value.toExponential(0) : String(Number(value.toPrecision(6)));
}

function bounds(low: number | null, high: number | null, wanted: [number, number] | undefined): [number, number] {
  const from = Math.min(low ?? 0, wanted?.[0] ?? Infinity);
  const to = Math.max(high ?? 1, wanted?.[1] ?? -Infinity);
  const room = (to - from) * 0.06 || Math.abs(to) * 0.1 || 0.5;
  return [wanted && from >= wanted[0] ? wanted[0] : from - room, wanted && to <= wanted[1] ? wanted[1] : to + room];
}

const SIGNS: Record<Marker["kind"], string> = { version: "v", checkpoint: "", restart: "↻", alert: "!", evaluation: "" };

function drawMarkers(self: uPlot, markers: Marker[], colour: (name: string) => string): void {
  const { ctx, bbox } = self;
  const ratio = devicePixelRatio;
  ctx.save();
  ctx.lineWidth = ratio;
  for (const marker of markers) {
    const x = self.valToPos(marker.step, "x", true);
    if (marker.kind === "evaluation" || x < bbox.left - 1 || x > bbox.left + bbox.width + 1) continue;
    ctx.strokeStyle = ctx.fillStyle = colour(`--marker-${marker.kind}`);
    if (marker.kind === "checkpoint") {
      ctx.fillRect(x - ratio, bbox.top + bbox.height - 5 * ratio, 2 * ratio, 5 * ratio);
      continue;
    }
    ctx.setLineDash(marker.kind === "version" ? [] : [3 * ratio, 3 * ratio]);
    ctx.beginPath();
    ctx.moveTo(x, bbox.top);
    ctx.lineTo(x, bbox.top + bbox.height);
    ctx.stroke();
  }
  ctx.restore();
}

/** Over the lines, on paper of their own; right of their marker, for left of the first one are the figures of the axis. */
function drawSigns(self: uPlot, markers: Marker[], colour: (name: string) => string): void {
  const { ctx, bbox } = self;
  const ratio = devicePixelRatio;
  ctx.save();
  ctx.font = `600 ${11 * ratio}px sans-serif`;
  ctx.textAlign = "left";
  for (const marker of markers) {
    const x = self.valToPos(marker.step, "x", true);
    const sign = signOf(marker);
    if (!sign || x < bbox.left - 1 || x > bbox.left + bbox.width + 1) continue;
    ctx.globalAlpha = 0.85;
    ctx.fillStyle = colour("--paper");
    ctx.fillRect(x + 2 * ratio, bbox.top, ctx.measureText(sign).width + 3 * ratio, 13 * ratio);
    ctx.globalAlpha = 1;
    ctx.fillStyle = colour(`--marker-${marker.kind}`);
    ctx.fillText(sign, x + 3 * ratio, bbox.top + 10 * ratio);
  }
  ctx.restore();
}

/** `v2` for "reward version 2 …". */
function signOf(marker: Marker): string {
  const number = marker.kind === "version" ? /\d+/.exec(marker.text)?.[0] ?? "" : "";
  return SIGNS[marker.kind] + number;
}
