import { appendFileSync, cpSync, mkdtempSync, rmSync, statSync } from 'node:fs';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Op } from '../../../core/domain/op.js';
import { bareImage } from '../../../test/lab/witness.js';
import { run } from '../../../test/lab/harness.js';
import { imageDir } from '../../../test/metal/image-machine.js';
import { Rack } from '../../../test/metal/rack.js';
import { median, report, round, say } from './report.js';

/** So long the node without VMs is looked at, ms. */
const idleMs = 120_000;

/** Its size, and how long it takes to make: with nothing there but Debian's mirror, and after a change of our own code. */
export async function imageBuild(): Promise<void> {
  const build = mkdtempSync(path.resolve('build', 'bench-image-'));
  const make = async (): Promise<number> => {
    const beganMs = performance.now();
    const made = await run('images/build', ['image'], { env: { FLOTILLA_BUILD: build } });
    if (made.code !== 0) throw new Error(`images/build image: ${made.stderr.slice(-2_000)}`);
    return (performance.now() - beganMs) / 1000;
  };
  const changed = path.resolve('build/dist/flotilla-agent.mjs');
  try {
    say('image-build: minutes');
    const cold = await make();
    report({ figure: 'image-build-cold', value: cold, unit: 's', target: { atMost: 300 }, n: 1 });
    cpSync(changed, `${build}/agent.mjs`);
    appendFileSync(changed, '\n// changed\n');
    const beganMs = performance.now();
    const again = await make();
    cpSync(`${build}/agent.mjs`, changed);
    const bundled = await run(process.execPath, ['scripts/bundle.mjs']);
    if (bundled.code !== 0) throw new Error(bundled.stderr);
    const both = (performance.now() - beganMs) / 1000;
    report({
      figure: 'image-build-change',
      value: both,
      unit: 's',
      target: { atMost: 30 },
      n: 1,
      compared: { imageS: round(again), bundleS: round(both - again) },
    });
    const size = statSync(path.join(build, 'image/flotilla.iso')).size / 1e6;
    report({ figure: 'image-size', value: size, unit: 'MB', target: { atMost: 400 }, n: 1 });
  } finally {
    rmSync(build, { recursive: true, force: true });
  }
}

/**
 * A cluster of one node in a container, and an emulated machine with a blank drive that starts from the image: how long from
 * power-on until it waits, and from its admission to the first VM that counts on it. Beside each stands what the machine itself took to start.
 */
export async function joins(): Promise<void> {
  say(`join: emulated machines, ${path.basename(imageDir())}`);
  const rack = new Rack('rackbench');
  const { c } = rack;
  try {
    await rack.open();
    await c.must('POST', 'pools', { name: 'local', kind: 'local', path: '/srv/local' });
    await c.image('bare', 'local', bareImage());
    const m1 = await rack.machine('m1', { firmware: 'bios', medium: 'cd' });
    const onMs = performance.now();
    await m1.on();
    const fingerprint = await m1.pending();
    const pendingS = (performance.now() - onMs) / 1000;
    const start = await rack.startTimes('m1');
    await c.must('POST', 'networks', { name: 'lan', bridge: 'fl0', uplink: await rack.guestCard('m1') });
    report({
      figure: 'join-pending',
      value: pendingS,
      unit: 's',
      n: 1,
      compared: {
        kernelAndRamDiskS: start.kernelS,
        unitsS: start.unitsS,
        firmwareAndLoaderS: round(Math.max(0, (performance.now() - onMs) / 1000 - start.upS)),
      },
    });
    const admitMs = performance.now();
    const since = (): number => round((performance.now() - admitMs) / 1000);
    await rack.admit('m1', fingerprint);
    const admittedS = since();
    await rack.untilHere('m1');
    const hereS = since();
    await rack.untilPool('m1');
    const poolS = since();
    await rack.counts('first', 'm1');
    report({
      figure: 'join-first-vm',
      value: since(),
      unit: 's',
      target: { atMost: 30 },
      n: 1,
      compared: {
        admittedS,
        heardAndAliveS: hereS,
        poolS,
        machineStartS: round(start.kernelS + start.unitsS),
      },
    });
    const { op } = await c.must<{ op: Op }>('DELETE', 'vms/first?force=true');
    await c.opEnd(op);
    // Of an idle node: what making and deleting the VM took is given back by and by.
    const used: number[] = [];
    let all = 0;
    const beganMs = performance.now();
    while (performance.now() - beganMs < idleMs) {
      const node = (await rack.nodes()).find((n) => n.id === rack.nodeOf('m1'));
      if (node?.vms === 0 && node.state !== null) {
        used.push(node.state.memoryUsedBytes / 1e6);
        all = node.state.memoryBytes / 1e6;
      }
      await sleep(idleMs / 24);
    }
    report({
      figure: 'join-memory',
      value: median(used),
      unit: 'MB',
      target: { atMost: 400 },
      n: used.length,
      compared: { ofMB: round(all), leastMB: round(Math.min(...used)), mostMB: round(Math.max(...used)) },
    });
  } finally {
    await rack.close();
    rmSync(rack.dir, { recursive: true, force: true });
  }
}
