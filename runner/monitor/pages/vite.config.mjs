// Builds the pages into dist/, which is checked in: whoever uses the monitor needs no Node.
// dist/export/ has the same pages as one script and one style, for `runner export --html`.
// dist/sources.json holds a hash over everything the bundle is made from; a test compares it with the files.
import { createHash } from "node:crypto";
import { readFileSync, readdirSync } from "node:fs";
import { join, relative } from "node:path";
import { fileURLToPath } from "node:url";
import { defineConfig } from "vite";

const root = fileURLToPath(new URL(".", import.meta.url));

function sources() {
  const inSrc = readdirSync(join(root, "src"), { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => relative(root, join(entry.parentPath, entry.name)).replaceAll("\\", "/"));
  return ["index.html", "package.json", "package-lock.json", "tsconfig.json", "vite.config.mjs", ...inSrc].sort();
}

function sourceHash() {
  const hash = createHash("sha256");
  for (const path of sources()) hash.update(`${path}\0`).update(readFileSync(join(root, path))).update("\0");
  return hash.digest("hex");
}

const stamp = {
  name: "stamp",
  generateBundle() {
    const source = `${JSON.stringify({ sha256: sourceHash() }, null, 2)}\n`;
    this.emitFile({ type: "asset", fileName: "sources.json", source });
  },
};

const pages = {
  outDir: "dist",
  rollupOptions: {
    output: {
      entryFileNames: "assets/[name]-[hash].js",
      chunkFileNames: "assets/[name]-[hash].js",
      assetFileNames: "assets/[name]-[hash][extname]",
    },
  },
};
const oneFile = {
  outDir: "dist/export",
  cssCodeSplit: false,
  rollupOptions: {
    input: join(root, "src/export.tsx"),
    output: { entryFileNames: "page.js", assetFileNames: "page[extname]", codeSplitting: false },
  },
};

export default defineConfig(({ mode }) => ({
  root,
  base: "./",
  plugins: mode === "export" ? [] : [stamp],
  build: { target: "es2022", assetsInlineLimit: 0, modulePreload: false, ...(mode === "export" ? oneFile : pages) },
}));
