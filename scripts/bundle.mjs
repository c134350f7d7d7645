// Bundles each program into one file, so that a node needs no node_modules and starts fast.
// The type check is tsc's; this only packs.
import { build } from 'esbuild';

/** Output name to entry point. */
const programs = {
  'flotilla-agent': 'agent/main.ts',
  // Without any npm package.
  'flotilla-keeper': 'agent/keeper/main.ts',
  // Run by the agent now and then: hardware facts.
  'flotilla-facts': 'agent/machine/facts-program.ts',
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
