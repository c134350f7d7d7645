import { appendFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { Load } from './client.js';
import { guestAddress, inOwnNetwork, makePair, protect, startGuest, until } from './pair.js';

/**
 * The same pair over and over: `soak TWINS [OWNERS] [FROZEN] [SILENT] [LOG]`. So many deaths of its twin, of its owner, of twins that
 * are frozen (SIGSTOP) and of owners whose cable is pulled (no FIN), each after some checkpoints, under load; a line of JSON for each.
 * What is wrong ends it.
 */
inOwnNetwork(fileURLToPath(import.meta.url));

type Kind = 'twin' | 'owner' | 'frozen' | 'silent';
const [twins = '10', owners = '0', frozen = '0', silent = '0', log = ''] = process.argv.slice(2);
const left: Record<Kind, number> = {
  twin: Number(twins),
  owner: Number(owners),
  frozen: Number(frozen),
  silent: Number(silent),
};
const total = { ...left };
/** Before each death, at least. */
const checkpoints = Number(process.env['FLOTILLA_CHECKPOINTS'] ?? '20');
const limitMs = 300_000;

const began = Date.now();
function say(line: object): void {
  const text = JSON.stringify({ s: Math.round((Date.now() - began) / 1000), ...line });
  console.log(text);
  if (log !== '') appendFileSync(log, `${text}\n`);
}

let gen = 1;
const pair = await makePair();
let code = 1;
try {
  const { vm } = pair;
  let { a: owner, b: twin } = pair;
  await startGuest(pair, owner, gen, limitMs);
  const load = new Load(guestAddress);
  await load.start();
  for (let n = 1; Object.values(left).some((x) => x > 0); n++) {
    // Mixed evenly, whatever the numbers are.
    const kind = (Object.keys(left) as Kind[])
      .filter((k) => left[k] > 0)
      .reduce((a, b) => (left[b] / total[b] > left[a] / total[a] ? b : a));
    left[kind]--;
    const pausedMs = await protect(pair, { owner, twin, gen: ++gen, checkpoints, limitMs });
    load.gap();
    const { pid } = twin.machines.get(vm) ?? {};
    const atMs = performance.now();
    const seen = twin.machines.get(vm)?.seen().checkpoints;
    if (kind === 'twin') {
      await twin.lockstep.end(vm);
      await owner.lockstep.goAlone(vm, ++gen);
    } else if (kind === 'frozen') {
      process.kill(pid ?? 0, 'SIGSTOP');
      await sleep(1_000);
      await owner.lockstep.goAlone(vm, ++gen);
    } else if (kind === 'owner') {
      await owner.lockstep.end(vm);
      await twin.lockstep.shut(vm);
      await twin.lockstep.takeOver(vm, ++gen);
    } else {
      owner.cable(false);
      await sleep(1_000);
      await twin.lockstep.shut(vm);
      await twin.lockstep.takeOver(vm, ++gen);
    }
    const doneMs = performance.now() - atMs;
    const { counts, writes } = load;
    await until(
      'answers',
      limitMs,
      () => load.wrong.length > 0 || (load.counts > counts + 5 && load.writes > writes + 1),
    );
    say({
      n,
      kind,
      ms: Math.round(doneMs),
      gapMs: Math.round(load.gap()),
      pausedMs: Math.round(pausedMs),
      checkpoints: seen,
    });
    if (load.wrong.length > 0) throw new Error(load.wrong.join('; '));
    if (kind === 'frozen') await twin.lockstep.end(vm);
    if (kind === 'silent') {
      await owner.lockstep.end(vm);
      owner.cable(true);
    }
    if (kind === 'owner' || kind === 'silent') {
      await owner.hypervisor.undefine(vm);
      [owner, twin] = [twin, owner];
    }
  }
  const account = await load.stop();
  say({ end: total, ...account });
  code = account.wrong.length === 0 ? 0 : 1;
} catch (e) {
  say({ failed: String(e), left });
  console.error(e);
} finally {
  await pair.end();
  process.exit(code);
}
