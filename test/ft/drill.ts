import { spawn, type ChildProcessWithoutNullStreams } from 'node:child_process';
import { createInterface } from 'node:readline';
import path from 'node:path';
import type { Test } from 'tap';
import { Drills, bootMs } from '../lab/drill.js';
import { waitFor, type Lab } from '../lab/harness.js';
import { servePort, type Account } from './client.js';

const MiB = 2 ** 20;
/** All is copied, the guest stands still meanwhile, and the machine has other things to do. */
const protectMs = 300_000;
const vm = 'steady';

/** {@link Load} as a program in the guests' network. */
class LoadThere {
  counts = 0;
  writes = 0;
  wrong: readonly string[] = [];
  readonly #child: ChildProcessWithoutNullStreams;
  #gap: ((ms: number) => void) | null = null;
  readonly #end: Promise<Account>;

  constructor(lab: Lab, address: string) {
    const program = path.join(import.meta.dirname, 'load-program.js');
    const words = [
      `--net=/run/netns/${lab.id}-fab`,
      process.execPath,
      '--enable-source-maps',
      program,
      address,
    ];
    this.#child = spawn('nsenter', words);
    this.#child.stderr.pipe(process.stderr);
    this.#end = new Promise((resolve, reject) => {
      this.#child.once('exit', (code) => reject(new Error(`the load ended: ${code}`)));
      createInterface({ input: this.#child.stdout }).on('line', (line) => {
        const said = JSON.parse(line) as {
          counts?: number;
          writes?: number;
          wrong?: string[];
          gapMs?: number;
          end?: Account;
        };
        if (said.end !== undefined) resolve(said.end);
        if (said.gapMs !== undefined) this.#gap?.(said.gapMs);
        this.counts = said.counts ?? this.counts;
        this.writes = said.writes ?? this.writes;
        this.wrong = said.wrong ?? this.wrong;
      });
    });
    this.#end.catch(() => undefined);
  }

  /** Waits until all connections got answers again. @returns the longest time without one since it was asked last, ms */
  async goesOn(): Promise<number> {
    const { counts, writes } = this;
    await waitFor(
      'the guest answers on the connections it had',
      () => this.wrong.length > 0 || (this.counts > counts + 20 && this.writes > writes + 3),
      { limitMs: protectMs },
    );
    // Not thrown while it is waited for: that would count as "not yet".
    if (this.wrong.length > 0) throw new Error(`the guest lost something: ${this.wrong.join('; ')}`);
    return new Promise((resolve) => {
      this.#gap = resolve;
      this.#child.stdin.write('gap\n');
    });
  }

  end(): Promise<Account> {
    this.#child.stdin.write('end\n');
    return this.#end;
  }

  kill(): void {
    this.#child.kill('SIGKILL');
  }
}

/** What happens to a pair on two of three nodes. */
interface Harm {
  do(lab: Lab, owner: string, twin: string): Promise<unknown>;
  mend(d: Drills, owner: string, twin: string): Promise<unknown>;
  /** Who owns it then; null: one of the two. */
  readonly then: 'owner' | 'twin' | null;
  /** It costs no twin: the pair is the same one afterwards. */
  readonly stays?: true;
}

const harms = {
  'its node dies': {
    do: (lab, owner) => lab.kill(owner),
    mend: (d, owner) => d.lab.boot(owner),
    then: 'twin',
  },
  'the node of its twin dies': {
    do: (lab, _, twin) => lab.kill(twin),
    mend: (d, _, twin) => d.lab.boot(twin),
    then: 'owner',
  },
  'its node stands still': {
    do: (lab, owner) => lab.freeze(owner),
    mend: (d, owner) => d.lab.thaw(owner),
    then: 'twin',
  },
  'the node of its twin stands still': {
    do: (lab, _, twin) => lab.freeze(twin),
    mend: (d, _, twin) => d.lab.thaw(twin),
    then: 'owner',
  },
  'all between the two is dropped': {
    do: async (lab, ...two) => {
      await lab.cut(...two);
      await lab.cut(...two, 'storage');
    },
    mend: (d) => d.lab.heal(),
    then: null,
  },
  'the management network between the two is dropped': {
    do: (lab, ...two) => lab.cut(...two),
    mend: (d) => d.lab.heal(),
    then: 'owner',
  },
  'the storage network between the two is dropped': {
    do: (lab, ...two) => lab.cut(...two, 'storage'),
    mend: (d) => d.lab.heal(),
    then: 'owner',
    stays: true,
  },
  'its node loses the management network': {
    do: (lab, owner) => lab.cut(owner),
    mend: (d) => d.lab.heal(),
    then: 'twin',
  },
  'the node of its twin loses the management network': {
    do: (lab, _, twin) => lab.cut(twin),
    mend: (d) => d.lab.heal(),
    then: 'owner',
  },
  'both agents are killed': {
    do: (lab, ...two) => Promise.all(two.map((n) => lab.sh(n, 'systemctl kill -s KILL flotilla-agent'))),
    mend: () => Promise.resolve(),
    then: 'owner',
    stays: true,
  },
} as const satisfies Record<string, Harm>;
export type HarmName = keyof typeof harms;
export const allHarms = Object.keys(harms) as HarmName[];

/**
 * One VM in lockstep through all that, with the twin made anew where it was lost, clients connected from the beginning to
 * the end, and no controller while it happens.
 */
export async function lockstepDrill(t: Test, what: readonly HarmName[]): Promise<void> {
  const nets = { net: '10.87.0', guestNet: '10.87.100', storageNet: '10.87.200' };
  const d = await Drills.up({ id: 'fllock', ...nets });
  t.teardown(() => d.down());
  const { c, lab } = d;
  await c.must('POST', 'pools', { name: 'local', kind: 'local', path: '/var/lib/flotilla/pools/local' });
  await waitFor('the pool is known of every node', async () => {
    const { body } = await c.get<{ items: { use: { ok: boolean }[] }[] }>('pools');
    return body.items.every((p) => p.use.length === d.nodes.length && p.use.every((u) => u.ok));
  });
  const { vm: made, op } = await c.must<{ vm: { id: string }; op: Parameters<typeof c.opEnd>[0] }>(
    'POST',
    'vms',
    {
      name: vm,
      node: 'n2',
      memoryMiB: 128,
      disks: [
        { name: 'root', pool: 'local', image: 'tiny', mode: 'full', format: 'raw', sizeBytes: 64 * MiB },
      ],
      nics: [{ network: 'lan' }],
      cloudInit: { hostname: vm, userData: `#cloud-config\n# flotilla-serve: ${servePort}\n` },
      ha: { enabled: true, lockstep: true, restartsPerHourMax: 100 },
      power: 'running',
    },
  );
  d.ids.set(vm, made.id);
  const end = await c.opEnd(op);
  t.equal(end.state, 'done', JSON.stringify(end.error));
  const [address = ''] = await waitFor('its address', async () => {
    const { addresses } = await d.vm(vm);
    return addresses.length > 0 ? addresses : null;
  });
  const load = new LoadThere(lab, address);
  t.teardown(() => load.kill());
  await waitFor('the guest answers', () => load.counts > 0, { limitMs: bootMs });

  const gaps = new Map<HarmName, number[]>();
  for (const [i, name] of what.entries()) {
    try {
      const harm: Harm = harms[name];
      const twin = await d.untilProtected(vm, protectMs);
      const owner = await d.ownerOf(vm);
      const third = d.nodes.find((n) => n !== owner && n !== twin) ?? '';
      const pair = async (): Promise<unknown> => (await d.own(vm, third)).lockstep?.pair;
      await checkpoints(d, owner, 20);
      const before = await pair();
      await load.goesOn();
      await Promise.all(d.nodes.map((n) => lab.sh(n, 'systemctl stop flotilla-controller')));
      await harm.do(lab, owner, twin);
      const at = new Date().toISOString();
      const gapMs = Math.round(await load.goesOn());
      gaps.set(name, [...(gaps.get(name) ?? []), gapMs]);
      await c.controllerOn(third);
      const then = harm.then === 'twin' ? twin : owner;
      const now = await waitFor('one of the two owns it', async () => {
        const is = await d.ownerOf(vm);
        return harm.then === null || is === then ? is : null;
      });
      // How it went, in the agent's own words.
      const words = `journalctl -b -o short-precise --no-pager -u flotilla-agent | grep -F 'last checkpoint' | tail -n 1`;
      t.comment(`at ${at}; ${now}: ${(await lab.sh(now, words)).trim()}`);
      await harm.mend(d, owner, twin);
      await d.allThere();
      if (harm.stays) t.equal(await pair(), before, 'the same pair');
      t.pass(`${i + 1}: ${name}, ${gapMs} ms`);
    } catch (e) {
      await d.tell(t);
      throw e;
    }
  }
  const account = await load.end();
  t.same(account.wrong, [], `${account.counts} counted, ${account.writes} written`);
  for (const [name, ms] of gaps) t.comment(`${name}: longest gaps, ms: ${ms.join(' ')}`);
}

/** As one node of the cluster reads those of another. */
const readMetrics = `
  const { readFileSync: f } = require("node:fs");
  const p = "/var/lib/flotilla/pki/";
  require("node:https").get("https://127.0.0.1:7443/metrics",
    { ca: f(p + "ca.crt"), cert: f(p + "node.crt"), key: f(p + "node.key") },
    (r) => r.pipe(process.stdout));`;

/** Waits until its machine has made so many more: one kill right after the copying would prove nothing. */
async function checkpoints(d: Drills, owner: string, more: number): Promise<void> {
  const count = async (): Promise<number> => {
    const metrics = await d.lab.sh(owner, `node -e '${readMetrics}'`);
    return Number(/^flotilla_lockstep_checkpoints\{.*role="primary"\} (\d+)$/m.exec(metrics)?.[1] ?? 0);
  };
  const from = await count();
  await waitFor('checkpoints', async () => (await count()) >= from + more, { limitMs: protectMs });
}
