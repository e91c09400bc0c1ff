// Builds dist/ from src/, and records in dist/SOURCES what it was built from.
import { build, context } from 'esbuild';
import { copyFileSync, mkdirSync, readFileSync, readdirSync, statSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const here = dirname(fileURLToPath(import.meta.url));

/** The sources of the page, by their paths, in order: `cargo xtask tidy` takes the same. */
function sources() {
  const src = readdirSync(join(here, 'src')).map((name) => `src/${name}`);
  return ['build.mjs', 'package-lock.json', 'package.json', 'tsconfig.json', ...src].sort();
}

/** FNV-1a over every path and content, each with a zero byte after it. */
function hash() {
  let hash = 0xcbf29ce484222325n;
  const add = (byte) => { hash = BigInt.asUintN(64, (hash ^ BigInt(byte)) * 0x100000001b3n); };
  for (const path of sources()) {
    for (const part of [Buffer.from(path), readFileSync(join(here, path))]) {
      part.forEach(add);
      add(0);
    }
  }
  return hash.toString(16).padStart(16, '0');
}

const options = {
  absWorkingDir: here,
  entryPoints: { app: 'src/main.tsx' },
  outdir: 'dist',
  bundle: true,
  minify: true,
  format: 'iife',
  target: ['chrome110', 'firefox115', 'safari16.4'],
  jsx: 'automatic',
  jsxImportSource: 'preact',
  legalComments: 'none',
  logLevel: 'warning',
};

mkdirSync(join(here, 'dist'), { recursive: true });
for (const name of ['index.html', 'icon.svg']) copyFileSync(join(here, 'src', name), join(here, 'dist', name));
if (process.argv.includes('--watch')) {
  await (await context(options)).watch();
} else {
  await build(options);
  writeFileSync(join(here, 'dist/SOURCES'), `${hash()}\n`);
  const size = (name) => statSync(join(here, 'dist', name)).size;
  console.log(['index.html', 'app.js', 'app.css'].map((name) => `${name} ${(size(name) / 1024).toFixed(1)} kB`).join(', '));
}
