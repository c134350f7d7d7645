import { copyFileSync, mkdirSync } from 'node:fs';
import path from 'node:path';
import type { LibvirtHypervisor } from '../../../agent/libvirt/index.js';
import type { Op } from '../../../core/domain/op.js';
import type { Drills } from '../../../test/lab/drill.js';
import { waitFor } from '../../../test/lab/harness.js';
import { hypervisorOf } from './lab-node.js';
import { median, percentile, report, round, say } from './report.js';

const ours = 'web';
const bare = 'twin';
const bareId = '00000000-0000-4000-8000-0000000000be';
/** Resamples of the bootstrap. */
const samples = 2_000;

interface Move {
  readonly totalMs: number;
  /** From the stop of the guest on one node to its going on at the other, as both daemons tell one listener. */
  readonly pauseMs: number;
}

/**
 * Migrates a VM through Flotilla and the same guest, unmanaged, by `virsh migrate`, in turn, there and back. Both are
 * timed from outside by one clock.
 */
export async function migrate(d: Drills, pairs: number): Promise<void> {
  const { lab } = d;
  await d.witness(ours, 'n1');
  await twin(d);
  const nodes = ['n1', 'n2'] as const;
  const daemons = new Map<string, LibvirtHypervisor>();
  for (const n of nodes) daemons.set(n, await hypervisorOf(lab, n));
  const [mine, theirs]: [Move[], Move[]] = [[], []];
  try {
    for (let i = 0; i < pairs; i++) {
      const [from, to] = i % 2 === 0 ? nodes : ([nodes[1], nodes[0]] as const);
      const timed = (id: string, act: () => Promise<void>): Promise<Move> =>
        time(daemons.get(from), daemons.get(to), id, act);
      const viaUs = async (): Promise<void> => {
        mine.push(await timed(d.id(ours), () => byFlotilla(d, to)));
        await d.goesOn(ours);
      };
      const direct = async (): Promise<void> => {
        theirs.push(await timed(bareId, () => byVirsh(d, from, to)));
        await d.goesOn(bare);
      };
      // Who is first changes, so that neither has the quieter half.
      for (const act of i % 4 < 2 ? [viaUs, direct] : [direct, viaUs]) await act();
      say(`pair ${i + 1}: ${JSON.stringify({ flotilla: mine.at(-1), virsh: theirs.at(-1) })}`);
    }
  } finally {
    for (const h of daemons.values()) await h.close();
    for (const n of nodes) await lab.exec(n, 'virsh', 'destroy', bareId);
  }
  tell(mine, theirs);
  const wrong = d.violations();
  if (wrong.length > 0) throw new Error(`a VM ran twice or lost a write: ${wrong.join('; ')}`);
}

function tell(mine: readonly Move[], theirs: readonly Move[]): void {
  const n = mine.length;
  const totals = (m: readonly Move[]): number[] => m.map((x) => x.totalMs);
  const pauses = (m: readonly Move[]): number[] => m.map((x) => x.pauseMs);
  const spread = (v: readonly number[]) => ({
    medianMs: round(median(v)),
    p90Ms: round(percentile(v, 0.9)),
    allMs: v.map(round),
  });
  const ratio = (pick: readonly number[]): number =>
    median(pick.map((i) => mine[i]?.totalMs ?? NaN)) / median(pick.map((i) => theirs[i]?.totalMs ?? NaN));
  const added = (pick: readonly number[]): number =>
    median(pick.map((i) => mine[i]?.pauseMs ?? NaN)) - median(pick.map((i) => theirs[i]?.pauseMs ?? NaN));
  const all = mine.map((_, i) => i);
  report({
    figure: 'migrate-total',
    value: ratio(all),
    unit: 'times bare virsh migrate, medians of the whole time',
    target: { atMost: 1.2 },
    n,
    compared: {
      interval95: interval(n, ratio),
      flotilla: spread(totals(mine)),
      virsh: spread(totals(theirs)),
    },
  });
  report({
    figure: 'migrate-pause',
    value: added(all),
    unit: 'ms that the guest stands still longer than with bare virsh migrate, medians',
    target: { atMost: 50 },
    n,
    compared: {
      interval95: interval(n, added),
      flotilla: spread(pauses(mine)),
      virsh: spread(pauses(theirs)),
    },
  });
}

/** 95 % by the bootstrap over pairs, from a fixed seed. */
function interval(n: number, of: (pick: readonly number[]) => number): readonly [number, number] {
  let state = 12345;
  const below = (m: number): number => {
    state = (Math.imul(state, 1103515245) + 12345) & 0x7fffffff;
    return state % m;
  };
  const values = Array.from({ length: samples }, () => of(Array.from({ length: n }, () => below(n))));
  return [round(percentile(values, 0.025)), round(percentile(values, 0.975))];
}

async function time(
  from: LibvirtHypervisor | undefined,
  to: LibvirtHypervisor | undefined,
  id: string,
  act: () => Promise<void>,
): Promise<Move> {
  if (from === undefined || to === undefined) throw new Error('a daemon is not there');
  const over = new AbortController();
  let [stood, wentOn] = [NaN, NaN];
  const listen = async (h: LibvirtHypervisor, event: string, note: () => void): Promise<void> => {
    for await (const e of h.events(over.signal))
      if (e.type === 'lifecycle' && e.uuid === id && e.event === event) note();
  };
  const both = [
    listen(from, 'suspended', () => (stood = performance.now())),
    listen(to, 'resumed', () => (wentOn = performance.now())),
  ];
  const beganMs = performance.now();
  await act();
  const totalMs = performance.now() - beganMs;
  await waitFor('both daemons have told', () => wentOn > stood, { limitMs: 10_000, everyMs: 20 });
  over.abort();
  await Promise.all(both);
  return { totalMs, pauseMs: wentOn - stood };
}

async function byFlotilla({ c }: Drills, node: string): Promise<void> {
  const { op } = await c.must<{ op: Op }>('POST', `vms/${ours}/migrate`, { node });
  await waitFor(
    'the migration ends',
    async () => {
      const { body } = await c.get<Op>(`ops/${op.id}?waitS=30`);
      if (body.state === 'failed') throw new Error(JSON.stringify(body.error));
      return body.state === 'done';
    },
    { limitMs: 120_000, everyMs: 5 },
  );
}

async function byVirsh({ lab }: Drills, from: string, to: string): Promise<void> {
  const flags = '--live --p2p --tls --persistent --undefinesource --auto-converge';
  const uri = `qemu+tls://${lab.address(to)}/system`;
  await lab.sh(
    from,
    `virsh migrate ${flags} --desturi ${uri} --migrateuri tcp://${lab.address(to)} ${bareId}`,
  );
}

/** The same guest, with a disk and an address of its own, that no agent knows of. */
async function twin(d: Drills): Promise<void> {
  const { c, lab } = d;
  await d.witness(bare, 'n1');
  const id = d.id(bare);
  const { spec } = (await c.get<{ spec: { disks: { disk: string }[] } }>(`vms/${bare}`)).body;
  const xml = await lab.sh('n1', `virsh dumpxml --migratable ${id}`);
  const { op } = await c.must<{ op: Op }>('POST', `vms/${bare}/actions/force-stop`);
  await c.opEnd(op);
  const dir = path.join(lab.share, 'bench');
  mkdirSync(dir, { recursive: true });
  copyFileSync(path.join(lab.share, 'disks', `${spec.disks[0]?.disk}.qcow2`), path.join(dir, 'twin.qcow2'));
  const seed = /<source file='([^']+)'[^>]*\/>(?:(?!<\/disk>)[\s\S])*ua-seed/.exec(xml)?.[1] ?? '';
  for (const n of ['n1', 'n2']) await lab.sh(n, `mkdir -p /run/flotilla/vm/${bareId}`);
  await lab.sh('n1', `cp ${seed} /srv/shared/bench/twin.iso`);
  const gone = await c.must<{ op: Op }>('DELETE', `vms/${bare}?force=true`);
  await c.opEnd(gone.op);
  const plain = xml
    .replace(/<metadata>[\s\S]*?<\/metadata>/, '')
    .replace(/<resource>[\s\S]*?<\/resource>/, '')
    .replaceAll(`/srv/shared/disks/${spec.disks[0]?.disk}.qcow2`, '/srv/shared/bench/twin.qcow2')
    .replaceAll(seed, '/srv/shared/bench/twin.iso')
    .replaceAll(id, bareId)
    .replaceAll(/<console[\s\S]*?<\/console>/g, '')
    .replaceAll(/<(serial|graphics)[\s\S]*?<\/\1>/g, '')
    .replaceAll(/<backingStore[\s\S]*?<\/backingStore>/g, '');
  await lab.sh(
    'n1',
    `cat >/tmp/twin.xml <<'XML'\n${plain}\nXML\nvirsh define /tmp/twin.xml && virsh start ${bareId}`,
  );
  await d.goesOn(bare);
}
