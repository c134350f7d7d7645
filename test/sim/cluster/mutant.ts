import { register } from 'node:module';
import type { Edit } from './edits.js';

/**
 * One mutation in a process of its own: `mutant.js NAME EDITS`, with edits as JSON, made before anything of Flotilla is
 * loaded. Prints what came of its night.
 */
const [name = '', text = '[]'] = process.argv.slice(2);
const edits = JSON.parse(text) as readonly Edit[];
Error.stackTraceLimit = 0;
if (edits.length > 0) register('./edits.js', import.meta.url, { data: edits });
const { mutations, runNight } = await import('./mutations.js');
const made = (globalThis as { flotillaEdits?: number }).flotillaEdits ?? 0;
if (made !== edits.length) throw new Error(`${name}: only ${made} of ${edits.length} edits were made`);
const m = mutations.find((x) => x.name === name);
if (m === undefined) throw new Error(`there is no mutation ${name}`);
process.stdout.write(JSON.stringify(await runNight(m, true)), () => process.exit(0));
