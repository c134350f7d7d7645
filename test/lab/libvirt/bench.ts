/*
 * How long state takes: this client against virsh, side by side on one daemon. Prints one JSON line per figure.
 *
 *   node build/js/test/lab/libvirt/bench.js [domains, default 11] [calls, default 1000]
 */
import { LibvirtHypervisor } from '../../../agent/libvirt/index.js';
import { LabDaemon } from './daemon.js';
import { tinyGuest } from './guest.js';

const [domains = 11, calls = 1000] = process.argv.slice(2).map(Number);
const daemon = await LabDaemon.start('n1');

function report(what: string, ms: number[]): void {
  const sorted = [...ms].sort((a, b) => a - b);
  const at = (q: number): number => Math.round((sorted[Math.floor(sorted.length * q)] ?? NaN) * 1000) / 1000;
  console.log(JSON.stringify({ what, domains, n: ms.length, p50Ms: at(0.5), p99Ms: at(0.99) }));
}

async function timed(what: string, n: number, act: () => Promise<unknown>): Promise<void> {
  const ms: number[] = [];
  for (let i = 0; i < n; i++) {
    const startedAt = performance.now();
    await act();
    ms.push(performance.now() - startedAt);
  }
  report(what, ms);
}

/** timed inside, so that entering the namespaces does not count */
async function timedVirsh(n: number, command: string): Promise<void> {
  const loop = `for i in $(seq ${n}); do a=$EPOCHREALTIME; virsh ${command} >/dev/null; b=$EPOCHREALTIME; echo $(( \${b/./} - \${a/./} )); done`;
  const out = await daemon.exec('bash', '-c', loop);
  report(
    `virsh ${command}`,
    out.split('\n').map((line) => Number(line) / 1000),
  );
}

try {
  await using hypervisor = new LibvirtHypervisor({ socketPath: daemon.socketPath });
  hypervisor.open();
  await hypervisor.waitConnected();
  for (let i = 0; i < domains; i++) await hypervisor.define(tinyGuest(daemon, { name: `vm${i}` }).xml);
  const first = await hypervisor.byName('vm0');
  await hypervisor.start(first.uuid, { paused: true });
  for (let i = 0; i < 200; i++) await hypervisor.stats({ groups: ['state'] });
  await timed('stats of all, state only', calls, () => hypervisor.stats({ groups: ['state'] }));
  await timed('stats of all, all groups', calls, () => hypervisor.stats());
  await timed('list', calls, () => hypervisor.list());
  await timed('list, then state of each', calls, async () => {
    const all = await hypervisor.list();
    await Promise.all(all.map(({ uuid }) => hypervisor.state(uuid)));
  });
  await timed('state of one', calls, () => hypervisor.state(first.uuid));
  await timedVirsh(100, 'domstats --state');
  await timedVirsh(100, 'list --all');
  await timedVirsh(100, 'domstate vm0');
} finally {
  await daemon.stop();
}
