import { spawn, type ChildProcess } from 'node:child_process';
import { copyFileSync, existsSync, mkdirSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import type { FailoverTimeline } from '../../core/domain/ha.js';
import { votersWanted } from '../../core/decide/voters.js';
import { failoverTimelineSchema } from '../../core/domain/ha.js';
import type { Op } from '../../core/domain/op.js';
import { timingProfiles, type TimingProfile } from '../../core/domain/timing.js';
import type { VmOwn, VmProtection } from '../../core/domain/vm.js';
import { LabCluster, type SeenVm } from './cluster.js';
import { waitFor, type Lab, type LabOptions } from './harness.js';
import { bareImage, tinyImage, WitnessEar } from './witness.js';

type Change = { op: Op; vm: { id: string } };

/** A guest needs so long to boot, at most, where the machine has other things to do. */
export const bootMs = 120_000;

/** The disk of a witness with a copy on each of two emulated machines, in the pool `fast`. */
export const twoCopies = [{ name: 'root', pool: 'fast', image: 'bare', mode: 'full', replicas: 2 }];

const etcdctl =
  'cd /var/lib/flotilla/pki; ETCDCTL_API=3 etcdctl --cacert ca.crt --cert node.crt --key node.key --command-timeout=3s';

/** A cluster on which things are broken on purpose, and the ear that tells from outside what its VMs did. */
export class Drills {
  readonly c: LabCluster;
  readonly lab: Lab;
  readonly ear: WitnessEar;
  readonly timing: TimingProfile;
  /** Nodes that VMs run on; with emulated machines the voters are more. */
  readonly nodes: readonly string[];
  /** Ids of the VMs by name. */
  readonly ids = new Map<string, string>();

  private constructor(c: LabCluster, nodes: number) {
    this.c = c;
    this.lab = c.lab;
    this.ear = new WitnessEar(c.lab);
    this.timing = timingProfiles[c.lab.timing];
    this.nodes = Array.from({ length: nodes }, (_, i) => `n${i + 1}`);
  }

  /** Nodes that are all voters, the pool `shared`, a network that the ear is in, the image of the witness. */
  static async up(o: LabOptions & { readonly nodes?: number }): Promise<Drills> {
    const metal = o.kind === 'metal';
    const { nodes = metal ? 2 : 3, ...lab } = o;
    const d = new Drills(new LabCluster({ timing: metal ? 'lab' : 'production', ...lab }), nodes);
    try {
      await d.furnish();
    } catch (e) {
      await d.down();
      throw e;
    }
    return d;
  }

  private async furnish(): Promise<void> {
    const { c, nodes } = this;
    await c.up(nodes.length);
    const metal = this.lab.kind === 'metal';
    const shared = { name: 'shared', kind: 'shared', path: '/srv/shared' };
    await c.must('POST', 'pools', metal ? { ...shared, nodes } : shared);
    const { guestNet } = this.lab;
    await c.must('POST', 'networks', {
      name: 'lan',
      bridge: 'fld0',
      uplink: 'eth1',
      subnet: `${guestNet}.0/24`,
      gateway: `${guestNet}.254`,
      range: [`${guestNet}.10`, `${guestNet}.99`],
    });
    await waitFor('the pool is known of every node', async () => {
      const { body } = await c.get<{ items: { use: { ok: boolean }[] }[] }>('pools');
      return body.items.every((p) => p.use.length === nodes.length && p.use.every((u) => u.ok));
    });
    if (metal) await c.image('bare', 'shared', bareImage());
    else await c.image('tiny', 'shared', tinyImage());
    await this.ear.start();
    await this.allThere();
  }

  /** The pool `fast`, of a blank drive of each emulated machine. */
  async poolOfDrives(): Promise<void> {
    const { c, nodes } = this;
    const drives = nodes.map((node) => ({ node, drive: 'drive1' }));
    await c.must('POST', 'pools', { name: 'fast', kind: 'thin', drives });
    await waitFor('the pool is well on both', async () => {
      const { body } = await c.get<{
        items: { name: string; use: { ok: boolean; text: string }[] }[];
      }>('pools');
      const uses = body.items.find((p) => p.name === 'fast')?.use ?? [];
      const sick = uses.find((u) => !u.ok);
      if (sick !== undefined) throw new Error(sick.text);
      return uses.length === nodes.length;
    });
  }

  async down(): Promise<void> {
    this.ear.stop();
    await this.lab.down();
  }

  /** Makes a witness with HA, and waits until it counts. One guest boots at a time. */
  async witness(name: string, node: string, more: Record<string, unknown> = {}): Promise<void> {
    await this.guest(name, node, {
      ...(this.lab.kind === 'metal'
        ? { disks: [{ name: 'root', pool: 'shared', image: 'bare', mode: 'full' }] }
        : {
            disks: [{ name: 'root', pool: 'shared', image: 'tiny', mode: 'linked' }],
            cloudInit: { hostname: name, userData: this.ear.userData },
          }),
      // As many as come: it fails over more often here than in a year elsewhere.
      ha: { enabled: true, restartsPerHourMax: 100 },
      ...more,
    });
    await this.untilProtected(name);
  }

  /** Makes a VM that speaks to the ear, and waits until it counts. */
  async guest(name: string, node: string, spec: Record<string, unknown>): Promise<void> {
    const { op, vm } = await this.c.must<Change>('POST', 'vms', {
      name,
      node,
      memoryMiB: 96,
      nics: [{ network: 'lan' }],
      power: 'running',
      ...spec,
    });
    this.ids.set(name, vm.id);
    this.ear.names.set(vm.id, name);
    const end = await this.c.opEnd(op);
    if (end.state !== 'done') throw new Error(`VM ${name}: ${JSON.stringify(end.error)}`);
    await this.goesOn(name);
  }

  id(name: string): string {
    const id = this.ids.get(name);
    if (id === undefined) throw new Error(`there is no VM ${name}`);
    return id;
  }

  vm(name: string): Promise<SeenVm & { readonly ha: VmProtection }> {
    return this.c.vm(name) as Promise<SeenVm & { readonly ha: VmProtection }>;
  }

  async ownerOf(name: string): Promise<string> {
    return (await this.vm(name)).node;
  }

  /** Armed, with a standby that could take it. @returns the standby */
  async untilProtected(name: string, limitMs = 90_000): Promise<string> {
    return waitFor(
      `VM ${name} protected`,
      async () => {
        const { ha } = await this.vm(name);
        if (ha.state !== 'protected' || ha.standby === null) throw new Error(`${ha.state}: ${ha.text}`);
        return ha.standby;
      },
      { limitMs },
    );
  }

  /** Nodes of the cluster, those beside emulated machines too. */
  get all(): readonly string[] {
    return [...this.nodes, ...this.c.contained];
  }

  /** All nodes alive, heard, armable, and as many voters as are wanted that hold the whole ledger. */
  async allThere(): Promise<void> {
    await this.c.untilHere(this.all.length);
    const wanted = votersWanted(this.all.length, 0);
    const voters = await waitFor(
      `${wanted} voters`,
      async () => {
        const { body } = await this.c.get<{ items: { id: string; record: { voter: boolean } }[] }>('nodes');
        const seated = body.items.filter((n) => n.record.voter).map((n) => n.id);
        return seated.length === wanted ? seated : null;
      },
      { limitMs: 120_000 },
    );
    await waitFor('all voters answer', () => this.well(voters), { limitMs: 120_000 });
  }

  private async well(voters: readonly string[]): Promise<boolean> {
    const checks = voters.map((n) => `https://${this.lab.address(n)}:2379`).join(',');
    const [first = ''] = await this.lab.nodes();
    const asked = this.lab.kind === 'metal' ? this.c.founder : first;
    return (
      (await this.lab.exec(asked, 'sh', '-euc', `${etcdctl} --endpoints ${checks} endpoint health`)).code ===
      0
    );
  }

  /** Switches a node on, and waits until all is as before. */
  async back(...nodes: string[]): Promise<void> {
    await this.lab.must('boot', ...nodes);
    await this.allThere();
  }

  /** Switches a node on while the VM boots elsewhere, and waits until all is as before. */
  async mended(name: string, boot: string, node: string): Promise<void> {
    await Promise.all([this.lab.boot(node), this.bootsAfter(name, boot)]);
    await this.allThere();
  }

  /** A record of the ledger as a node reads it, with a quorum. */
  async ledger<T>(node: string, key: string): Promise<T> {
    const text = await this.lab.sh(
      node,
      `${etcdctl} --endpoints https://127.0.0.1:2379 get --print-value-only /flotilla/${key}`,
    );
    return JSON.parse(text) as T;
  }

  own(name: string, node: string): Promise<VmOwn> {
    return this.ledger<VmOwn>(node, `vm/${this.id(name)}/own`);
  }

  /** Waits until the ledger says that both copies of its disk are the same. */
  async inSync(name: string): Promise<void> {
    await waitFor('its copies are in sync', async () => {
      const { sync } = await this.own(name, this.c.founder);
      if (sync !== 'ok') throw new Error(`they are ${sync}`);
      return true;
    });
  }

  /** The node whose voter leads. */
  async leader(): Promise<string> {
    const [first = ''] = await this.lab.nodes();
    const urls = this.nodes.map((n) => `https://${this.lab.address(n)}:2379`).join(',');
    const json = await this.lab.sh(
      first,
      `${etcdctl} --endpoints ${urls} endpoint status -w json 2>/dev/null`,
    );
    const all = JSON.parse(json) as {
      Endpoint: string;
      Status: { leader: number; header: { member_id: number } };
    }[];
    const is = all.find((e) => e.Status.leader === e.Status.header.member_id);
    const node = this.nodes.find((n) => is?.Endpoint.includes(`${this.lab.address(n)}:`));
    if (node === undefined) throw new Error('the ledger has no leader');
    return node;
  }

  /** Lets that node's voter lead. @returns false: it did already */
  async lead(node: string): Promise<boolean> {
    const now = await this.leader();
    if (now === node) return false;
    const url = (n: string): string => `https://${this.lab.address(n)}:2379`;
    const status = await this.lab.sh(now, `${etcdctl} --endpoints ${url(node)} endpoint status -w json`);
    // Its id has more digits than a JavaScript number.
    const id = BigInt(/"member_id":(\d+)/.exec(status)?.[1] ?? '0').toString(16);
    await this.lab.sh(now, `${etcdctl} --endpoints ${url(now)} move-leader ${id} >/dev/null`);
    return waitFor(`${node} leads`, async () => (await this.leader()) === node);
  }

  /** Waits until the guest has flushed and told something new, from any boot. @returns ms it took */
  async goesOn(name: string, limitMs = bootMs): Promise<void> {
    const before = this.ear.of(name).length;
    await waitFor(
      `${name} counts`,
      () =>
        this.ear
          .of(name)
          .slice(before)
          .some((w) => w.kind === 'count'),
      { limitMs },
    );
  }

  /** Waits until a boot after this one counts. */
  async bootsAfter(name: string, boot: string, limitMs = bootMs): Promise<void> {
    await waitFor(
      `a new boot of ${name} counts`,
      () => {
        const last = this.ear.last(name);
        return last !== undefined && last.boot !== boot && last.kind === 'count';
      },
      { limitMs },
    );
  }

  bootOf(name: string): string {
    const boot = this.ear.last(name)?.boot;
    if (boot === undefined) throw new Error(`${name} never spoke`);
    return boot;
  }

  /** Process ids of the VM's machines on a node, as the node sees them. */
  async machines(node: string, name: string): Promise<number[]> {
    const r = await this.lab.exec(
      node,
      'pgrep',
      '-f',
      '--',
      `^/usr/bin/qemu-system.* -uuid ${this.id(name)} `,
    );
    return r.stdout.split('\n').filter(Boolean).map(Number);
  }

  /** Whether nothing of the VM can run there: its group is frozen. */
  async frozen(node: string, name: string): Promise<boolean> {
    const [pid] = await this.machines(node, name);
    if (pid === undefined) return false;
    const script = `g=$(sed -n 's/^0:://p' /proc/${pid}/cgroup); cat "/sys/fs/cgroup$g/cgroup.events"`;
    return /frozen 1/.test(await this.lab.sh(node, script));
  }

  async pidOf(node: string, unit: string): Promise<number> {
    return Number(await this.lab.sh(node, `systemctl show -p MainPID --value ${unit}`));
  }

  signal(node: string, pid: number, signal: 'STOP' | 'CONT' | 'KILL'): Promise<string> {
    return this.lab.sh(node, `kill -${signal} ${pid}`);
  }

  failoverOps(name: string): Promise<Op[]> {
    return this.c
      .get<{ items: Op[] }>(`ops?kind=vm.failover&subject=${this.id(name)}&limit=100`)
      .then((r) => r.body.items);
  }

  /** The failover of that VM begun since: its machine runs elsewhere, and its op says how that went. */
  async takenOver(name: string, before: readonly Op[], limitMs = 120_000): Promise<FailoverTimeline> {
    return waitFor(
      `${name} runs elsewhere`,
      async () => {
        const ops = (await this.failoverOps(name)).filter((o) => !before.some((b) => b.id === o.id));
        const line = ops
          .map((o) => failoverTimelineSchema.parse(o.args))
          .find((l) => l.phasesMs.running !== undefined);
        if (line !== undefined) return line;
        const vm = await this.vm(name);
        throw new Error(`it is on ${vm.node}: ${vm.phase} ${vm.reason}; ${vm.ha.text}`);
      },
      { limitMs, everyMs: 300 },
    );
  }

  /** Waits until that node owns the VM and could not start it, as another machine has its disk. */
  async startRefused(name: string, node: string, sinceMs: number): Promise<void> {
    const since = Math.floor(sinceMs / 1000);
    const script = `journalctl -b -o cat -u flotilla-agent --since=@${since} | grep -c 'still locked' || true`;
    await waitFor(
      `${node} finds the disk of ${name} locked`,
      async () => (await this.lab.sh(node, script)) !== '0',
    );
    const { owner } = await this.own(name, node);
    if (owner !== node) throw new Error(`${name} is owned by ${owner}`);
  }

  /** The last words of agents and keepers, for whoever looks into a drill that failed. */
  async words(): Promise<string> {
    const journal =
      'journalctl -b -o short-precise --no-pager -n 60 -u flotilla-agent -u flotilla-keeper | cut -c8-260';
    const texts = (await this.lab.nodes()).map(async (n) => `${n}:\n${await this.lab.sh(n, journal)}`);
    return (await Promise.all(texts)).join('\n');
  }

  /** Tells a drill that failed what the nodes said last, and where all that they said is kept. */
  async tell(t: { comment(text: string): void }): Promise<void> {
    t.comment(await this.words().catch(String));
    t.comment(`all of it: ${await this.keepRecords().catch(String)}`);
  }

  /** Keeps the whole journals and consoles of all nodes that are on, below `build/test/failed`. @returns where */
  async keepRecords(): Promise<string> {
    const dir = path.resolve('build/test/failed', `${this.lab.id}-${new Date().toISOString()}`);
    mkdirSync(dir, { recursive: true });
    const save = async (n: string): Promise<void> => {
      const said = await this.lab.exec(n, 'journalctl', '-o', 'short-precise', '--no-pager');
      writeFileSync(path.join(dir, `${n}.journal`), said.stdout + said.stderr);
    };
    await Promise.all((await this.lab.nodes()).map(save));
    for (const n of this.all) {
      const log = path.join(this.lab.dir, n, 'console.log');
      if (existsSync(log)) copyFileSync(log, path.join(dir, `${n}.console`));
    }
    return dir;
  }

  /** What must never be: the VM on two nodes, a write that was told to be on the disk and is not. */
  violations(): string[] {
    return [...this.ids.keys()].flatMap((name) => this.ear.violations(name).map((v) => `${name}: ${v}`));
  }
}

/**
 * Holds an image's lock as a QEMU would that has not died yet: a read lock on the bytes that stand for "writes" and
 * "lets nobody else write". @see QEMU 10, block/file-posix.c: RAW_LOCK_PERM_BASE 100, RAW_LOCK_SHARED_BASE 200
 */
export class LockHolder {
  readonly #child: ChildProcess;
  readonly held: Promise<void>;

  constructor(file: string) {
    // F_OFD_SETLK is 37; struct flock of x86-64. Perl, as Node has no fcntl.
    const script = `
      open(F, '+<', $ARGV[0]) or die "$!";
      for $at (101, 201) { fcntl(F, 37, pack('s s x4 q q i x4', 0, 0, $at, 1, 0)) or die "lock: $!"; }
      $| = 1; print "held\\n"; <STDIN>`;
    this.#child = spawn('perl', ['-e', script, path.resolve(file)], { stdio: ['pipe', 'pipe', 'inherit'] });
    this.held = new Promise((resolve, reject) => {
      this.#child.on('error', reject);
      this.#child.on('exit', (code) => reject(new Error(`the lock holder ended: ${code}`)));
      this.#child.stdout?.once('data', () => resolve());
    });
    this.held.catch(() => undefined);
  }

  release(): void {
    this.#child.kill('SIGKILL');
  }
}
