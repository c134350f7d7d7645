import { createInterface } from 'node:readline';
import { Asker, Load } from './client.js';

/**
 * Clients of a guest, in the network of a lab's guests: `load-program ADDRESS`. Prints a JSON line on how they fare now and
 * then; `gap` on its input asks for the longest gap since then, anything else ends them.
 */

const [, , address = ''] = process.argv;
const say = (what: object): void => void console.log(JSON.stringify(what));

for (;;) {
  const asker = await Asker.open(address).catch(() => null);
  asker?.close();
  if (asker !== null) break;
}
const load = new Load(address);
await load.start();
const timer = setInterval(() => say({ counts: load.counts, writes: load.writes, wrong: load.wrong }), 100);
for await (const line of createInterface({ input: process.stdin })) {
  if (line !== 'gap') break;
  say({ gapMs: load.gap() });
}
clearInterval(timer);
say({ end: await load.stop() });
process.exit(0);
