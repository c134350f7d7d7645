// Bundles each program into one file, so that a node needs no node_modules and starts fast.
// The type check is tsc's; this only packs.
import { readFile, readdir, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { gzipSync } from 'node:zlib';
import { build } from 'esbuild';
import { build as buildWeb } from 'vite';

/** Output name to entry point. */
const programs = {
  'flotilla-agent': 'agent/main.ts',
  // Without any npm package.
  'flotilla-keeper': 'agent/keeper/main.ts',
  // Run by the agent now and then: hardware facts.
  'flotilla-facts': 'agent/machine/facts-program.ts',
  // A thread of the agent: disks that are unpacked as they come.
  'flotilla-intake': 'agent/pool/intake-program.ts',
  'flotilla-controller': 'controller/main.ts',
  flotilla: 'controller/cli/main.ts',
};

await build({
  entryPoints: programs,
  outdir: 'build/dist',
  outExtension: { '.js': '.mjs' },
  bundle: true,
  platform: 'node',
  target: 'node20',
  format: 'esm',
  sourcemap: 'linked',
  legalComments: 'none',
  // Comments and blanks are half of it, and V8 keeps the text: 4 MB less per process. Names stay, for stack traces.
  minifyWhitespace: true,
  minifySyntax: true,
  // CommonJS dependencies inside an ES module need `require`.
  banner: {
    js: "import { createRequire as flotillaRequire } from 'node:module'; const require = flotillaRequire(import.meta.url);",
  },
  logLevel: 'warning',
});

// The web page, packed into one more file beside the programs: where they go, it goes.
const web = 'build/web';
await buildWeb({ root: 'controller/web', configFile: 'controller/web/vite.config.mjs' });
const types = {
  '.html': 'text/html; charset=utf-8',
  '.js': 'text/javascript; charset=utf-8',
  '.css': 'text/css; charset=utf-8',
  '.svg': 'image/svg+xml',
};
const files = {};
for (const entry of (await readdir(web, { recursive: true, withFileTypes: true })).filter((e) =>
  e.isFile(),
)) {
  const file = path.join(entry.parentPath, entry.name);
  const type = types[path.extname(file)];
  if (type === undefined) throw new Error(`${file}: its type is not known here`);
  files[path.relative(web, file)] = {
    type,
    gzip: gzipSync(await readFile(file), { level: 9 }).toString('base64'),
  };
}
await writeFile('build/dist/flotilla-web.mjs', `export const files = ${JSON.stringify(files)};\n`);
