import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { Asker, Load } from '../../../test/ft/client.js';
import {
  guestAddress,
  inOwnNetwork,
  joinTwin,
  makePair,
  startGuest,
  type PairNode,
} from '../../../test/ft/pair.js';
import { median, percentile, report, say } from './report.js';

/**
 * `lockstep-program SECONDS DEATHS`: two QEMUs of the appliance with networks of their own on this machine, a guest under TCG, and its
 * clients. Each load runs for so many seconds, one after the other: alone, in lockstep, and after the twin has gone on. Then so
 * many of each die. All of it on the same cores: shares are to be read, not speeds.
 */
inOwnNetwork(fileURLToPath(import.meta.url));
const [, , secondsText = '5', deathsText = '5'] = process.argv;
const seconds = Number(secondsText);
const deaths = Number(deathsText);
const MiB = 2 ** 20;

interface Fared {
  /** Answers, or for `bulk` MB and for `spin` loops, a second. */
  readonly perS: number;
  /** Median time of one, ms. */
  readonly p50Ms: number;
}

async function turns(connections: number, ask: (on: Asker, n: number) => Promise<unknown>): Promise<Fared> {
  const all = await Promise.all(Array.from({ length: connections }, () => Asker.open(guestAddress)));
  const times: number[] = [];
  const began = performance.now();
  await Promise.all(
    all.map(async (on) => {
      for (let n = 1; performance.now() - began < seconds * 1000; n++) {
        const at = performance.now();
        await ask(on, n);
        times.push(performance.now() - at);
      }
    }),
  );
  const tookS = (performance.now() - began) / 1000;
  for (const on of all) on.close();
  return { perS: times.length / tookS, p50Ms: median(times) };
}

const loads: Readonly<Record<string, () => Promise<Fared>>> = {
  echo: () => turns(1, (on) => on.ask('echo 0123456789')),
  'counter-1': () => turns(1, (on) => on.ask('count')),
  'counter-8': () => turns(8, (on) => on.ask('count')),
  write: () => turns(1, (on, n) => on.ask(`write ${n}`)),
  async bulk() {
    const fared = await turns(1, (on) => on.bulk(MiB));
    return { ...fared, perS: (fared.perS * MiB) / 1e6 };
  },
  async spin() {
    const on = await Asker.open(guestAddress);
    const [, loops] = (await on.ask(`spin ${seconds * 1000}`)).split(' ');
    on.close();
    return { perS: Number(loops) / seconds, p50Ms: 0 };
  },
};
/** Shares of what there is without, at least. Computing loses what the twin's node and checkpoints take; the rest waits for two. */
const targets: Readonly<Record<string, number>> = {
  echo: 0.1,
  'counter-1': 0.01,
  'counter-8': 0.01,
  write: 0.1,
  bulk: 0.05,
  spin: 0.2,
};
/** A guest's boot on an emulated CPU that others have, too, ms. */
const bootMs = 600_000;
/** Times of one phase, by load. */
type Phase = Map<string, Fared>;

async function phase(what: string): Promise<Phase> {
  const out: Phase = new Map();
  for (const [name, run] of Object.entries(loads)) {
    say(`${what}: ${name}`);
    out.set(name, await run());
  }
  return out;
}

const pair = await makePair();
let code = 1;
try {
  const { vm } = pair;
  let { a: owner, b: twin } = pair;
  let gen = 1;
  const pauses: number[] = [];
  const protect = async (): Promise<void> => void pauses.push(await joinTwin(pair, owner, twin, ++gen));
  const ownerDies = async (): Promise<void> => {
    await owner.lockstep.end(vm);
    await twin.lockstep.shut(vm);
    await twin.lockstep.takeOver(vm, ++gen);
    await owner.hypervisor.undefine(vm);
    [owner, twin] = [twin, owner] as [PairNode, PairNode];
  };
  say('the guest boots');
  await startGuest(pair, owner, gen, bootMs);
  const alone = await phase('alone');
  await protect();
  const inLockstep = await phase('in lockstep');
  await ownerDies();
  const after = await phase('after its twin went on');
  for (const [name, { perS, p50Ms }] of inLockstep) {
    const was = alone.get(name);
    report({
      figure: `lockstep-${name}`,
      value: perS / (was?.perS ?? NaN),
      unit: 'share of what it is alone',
      target: { atLeast: targets[name] ?? 0 },
      n: Math.round(perS * seconds),
      compared: {
        alone: was,
        inLockstep: { perS, p50Ms },
        after: after.get(name),
        perS: name === 'bulk' ? 'MB' : name === 'spin' ? 'loops' : 'answers',
      },
    });
  }
  const gaps = { owner: [] as number[], twin: [] as number[] };
  const load = new Load(guestAddress);
  await load.start();
  for (let n = 0; n < deaths; n++) {
    for (const who of ['owner', 'twin'] as const) {
      say(`death ${n + 1} of the ${who}`);
      await protect();
      await sleep(1_000);
      load.gap();
      if (who === 'owner') await ownerDies();
      else {
        await twin.lockstep.end(vm);
        await owner.lockstep.goAlone(vm, ++gen);
      }
      const { counts, writes } = load;
      while (load.counts < counts + 5 || load.writes < writes + 2) await sleep(5);
      gaps[who].push(load.gap());
    }
  }
  const { wrong } = await load.stop();
  if (wrong.length > 0) throw new Error(wrong.join('; '));
  for (const who of ['owner', 'twin'] as const) {
    const of = gaps[who];
    report({
      figure: `lockstep-gap-${who}`,
      value: percentile(of, 0.95),
      unit: 'ms without an answer, detection not counted',
      target: { atMost: 1_000 },
      n: of.length,
      median: median(of),
    });
  }
  report({
    figure: 'lockstep-standstill',
    value: median(pauses),
    unit: 'ms',
    target: { atMost: 10_000 },
    n: pauses.length,
    compared: { memoryMiB: 128 },
  });
  code = 0;
} catch (e) {
  console.error(e);
} finally {
  await pair.end();
  process.exit(code);
}
