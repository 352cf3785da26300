/** Numbers and times as people read them. */

export function number(value: number | null | undefined, digits = 3): string {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  const size = Math.abs(value);
  if (Number.isInteger(value) && size < 1e6) return value.toLocaleString("en");
  if (size !== 0 && (size < 0.001 || size >= 1e6)) return value.toExponential(2).replace("e+", "e");
  const places = size >= 10 ? 1 : digits;
  return value.toLocaleString("en", { minimumFractionDigits: Math.min(places, 2), maximumFractionDigits: places });
}

/** A score in a column: the same number of digits for the same size. */
export function score(value: number | null | undefined): string {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  return Math.abs(value) >= 1000 ? number(value) : value.toFixed(Math.abs(value) < 10 ? 3 : 1);
}

export function signed(value: number): string {
  return `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(2)}`;
}

export function percent(value: number | null | undefined): string {
  return value === null || value === undefined ? "–" : `${Math.round(value * 100)}%`;
}

/** One digit more below ten per cent. */
export function smallPercent(value: number | null | undefined): string {
  if (value === null || value === undefined || value === 0 || value >= 0.1) return percent(value);
  return `${(value * 100).toFixed(1)}%`;
}

export function duration(seconds: number): string {
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 60) return `${seconds.toFixed(seconds < 10 ? 1 : 0)} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes} min ${Math.floor(seconds % 60)} s`;
  const hours = Math.floor(minutes / 60);
  return hours < 48 ? `${hours} h ${minutes % 60} min` : `${Math.floor(hours / 24)} d ${hours % 24} h`;
}

export function ago(at: number | null): string {
  if (at === null) return "";
  const seconds = Date.now() / 1000 - at;
  if (seconds < 60) return "just now";
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ago`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h ago`;
  return new Date(at * 1000).toLocaleDateString("en", { day: "numeric", month: "short", year: "numeric" });
}

export function moment(at: number | null): string {
  return at === null ? "–" : new Date(at * 1000).toLocaleString("en-GB");
}

export function bytes(size: number): string {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let n = 0;
  while (size >= 1000 && n < units.length - 1) [size, n] = [size / 1000, n + 1];
  return `${n && size < 100 ? size.toFixed(1) : Math.round(size)} ${units[n]}`;
}

/** Reward versions are hashes; within a run people count them. */
export function versionName(sha256: string, versions: { version: number; sha256: string }[]): string {
  const known = versions.find((version) => version.sha256 === sha256);
  return known ? `v${known.version}` : sha256.slice(0, 8);
}
