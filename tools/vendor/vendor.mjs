// Bundles the pinned npm packages into static/vendor and writes VENDOR.json beside them.
//
//   npm ci && npm run vendor     make the files
//   npm ci && npm run check      fail if the committed files are not exactly what the lock file makes
//
// The same lock file gives the same bytes: esbuild is pinned too, and nothing here reads the clock or the host.
import { createHash } from "node:crypto";
import { mkdir, readFile, readdir, writeFile } from "node:fs/promises";
import path from "node:path";
import { fileURLToPath } from "node:url";

import { build } from "esbuild";

const HERE = path.dirname(fileURLToPath(import.meta.url));
const TARGET = path.resolve(HERE, "../../static/vendor");
const BUNDLES = ["core", "highlight", "katex"];
const KATEX = path.join(HERE, "node_modules/katex/dist");
const CHECK = process.argv.includes("--check");

const lock = JSON.parse(await readFile(path.join(HERE, "package-lock.json"), "utf8"));
const manifest = { made_by: `tools/vendor/vendor.mjs with esbuild ${lock.packages["node_modules/esbuild"].version}`, files: {} };
const outputs = new Map();
const licences = new Map();

for (const name of BUNDLES) {
  const result = await build({
    absWorkingDir: HERE,
    entryPoints: [`${name}.entry.mjs`],
    bundle: true,
    write: false,
    metafile: true,
    format: "esm",
    minify: true,
    target: "es2022",
    charset: "utf8",
    legalComments: "none", // every licence is in LICENSES.txt, in full
  });
  const bytes = result.outputFiles[0].contents;
  const packages = packagesOf(result.metafile);
  for (const entry of packages) licences.set(`${entry.name} ${entry.version} (${entry.licence})`, entry.directory);
  outputs.set(`${name}.js`, bytes);
  manifest.files[`${name}.js`] = {
    sha256: sha256(bytes),
    bytes: bytes.length,
    packages: packages.map(({ directory, ...rest }) => rest),
  };
}

// KaTeX's style sheet with its fonts in the one format that every supported browser reads.
const sheet = (await readFile(path.join(KATEX, "katex.min.css"), "utf8")).replace(/,url\([^)]*\.(?:woff|ttf)\) format\("\w+"\)/g, "");
if (/\.(?:woff|ttf)\b/.test(sheet)) throw new Error("katex.css names fonts that are not vendored");
add("katex.css", Buffer.from(sheet));
for (const [, font] of sheet.matchAll(/url\((fonts\/\w+(?:-\w+)?\.woff2)\)/g)) add(font, await readFile(path.join(KATEX, font)));

const texts = [];
for (const [title, directory] of [...licences].sort()) texts.push(`${title}\n\n${await licenceText(directory)}`);
const licenceFile = Buffer.from(texts.join(`\n\n${"-".repeat(80)}\n\n`) + "\n");
add("LICENSES.txt", licenceFile);
outputs.set("VENDOR.json", Buffer.from(JSON.stringify(manifest, null, 2) + "\n"));

if (CHECK) await compare();
else {
  await mkdir(path.join(TARGET, "fonts"), { recursive: true });
  for (const [name, bytes] of outputs) await writeFile(path.join(TARGET, name), bytes);
  console.log([...outputs].map(([name, bytes]) => `${name} ${bytes.length}`).join("\n"));
}

function add(name, bytes) {
  outputs.set(name, bytes);
  manifest.files[name] = { sha256: sha256(bytes), bytes: bytes.length };
}

/** The packages whose files esbuild put into the bundle, with what the lock file says about each. */
function packagesOf(metafile) {
  const directories = new Set();
  for (const [input, { bytes }] of Object.entries(metafile.inputs)) {
    const match = input.match(/^(.*node_modules\/(?:@[^/]+\/)?[^/]+)\//);
    if (match && bytes > 0) directories.add(match[1]);
  }
  return [...directories].sort().map((directory) => {
    const { version, license: licence, integrity } = lock.packages[directory];
    return { name: directory.split("node_modules/").at(-1), version, licence, integrity, directory };
  });
}

async function licenceText(directory) {
  const names = (await readdir(path.join(HERE, directory))).filter((name) => /^(licen[cs]e|copying)/i.test(name)).sort();
  if (names.length === 0) throw new Error(`${directory} ships no licence text`);
  const parts = await Promise.all(names.map((name) => readFile(path.join(HERE, directory, name), "utf8")));
  return parts.map((part) => part.replaceAll("\r\n", "\n").trim()).join("\n\n");
}

async function compare() {
  const differing = [];
  for (const [name, bytes] of outputs) {
    const committed = await readFile(path.join(TARGET, name)).catch(() => Buffer.alloc(0));
    if (!Buffer.from(bytes).equals(committed)) differing.push(name);
  }
  const found = await readdir(TARGET, { recursive: true, withFileTypes: true });
  const names = found.filter((entry) => entry.isFile()).map((entry) => path.relative(TARGET, path.join(entry.parentPath, entry.name)));
  const extra = names.filter((name) => !outputs.has(name));
  if (differing.length + extra.length === 0) return;
  console.error(`static/vendor is not what the lock file makes: ${[...differing, ...extra].join(", ")}`);
  process.exitCode = 1;
}

function sha256(bytes) {
  return createHash("sha256").update(bytes).digest("hex");
}
