import t, { type Test } from 'tap';
import { migrateArgs } from '../../core/domain/migration.js';
import { opFinished, type Op } from '../../core/domain/op.js';
import { Drills, twoCopies } from '../lab/drill.js';
import { waitFor } from '../lab/harness.js';
import { Passed } from './passed.js';

/** Who may die in the middle of a migration, and whether the whole machine goes. */
export const victims = ['source', 'target', 'agent of the source', 'agent of the target'] as const;
export type Victim = (typeof victims)[number];

/** How often something is done that is to be done `most` times: `METAL_TIMES` says how often at most. */
export const times = (most: number): number =>
  Math.min(most, Math.max(1, Math.floor(Number(process.env['METAL_TIMES'] ?? most))));

/** What somebody who is to die in the middle of a migration waits for. */
export interface Moment {
  readonly name: string;
  /** Whether it is there, by what the API says of the operation. */
  readonly reached: (op: Op) => boolean;
  /** A shell script that waits in the source for what no API tells. */
  readonly then?: string;
}

/** Waits until QEMU has stopped for the last step, as libvirt writes it, or is gone; no program is run meanwhile. */
const standsStill = `exec 9<> <(:)
  shopt -s nullglob
  for (( ; ; )); do
    said=
    for f in /run/libvirt/qemu/*.xml; do mapfile -n 10 -t head <"$f"; said+="\${head[*]}"; done
    [[ $said == *domstatus* && $said != *"<domstatus state='paused' reason='migration'"* ]] || exit 0
    read -t 0.2 -u 9
  done`;

/**
 * A migration from its wish to its end, as far apart as its own steps are, however long they take: eight moments after so many
 * seconds were all within its first step where a machine was slow.
 */
const allMoments: readonly Moment[] = [
  { name: 'as it is asked for', reached: () => true },
  { name: 'as its copy may come', reached: (op) => (migrateArgs(op)?.ready ?? null) !== null },
  { name: 'as it has begun', reached: (op) => op.state === 'running' },
  { name: 'as its memory is sent', reached: (op) => (op.progress ?? 0) > 0 },
  { name: 'as half of its memory is sent', reached: (op) => (op.progress ?? 0) >= 0.5 },
  // How much is sent comes late to the API from a busy node.
  { name: 'as its guest stands still', reached: (op) => op.state === 'running', then: standsStill },
  { name: 'as it is handed over', reached: (op) => (migrateArgs(op)?.handedOver ?? null) !== null },
  { name: 'as it is done', reached: () => false },
];

/** `most` of them, over all of it. */
export const moments = (most: number): Moment[] => {
  const n = times(most);
  return Array.from({ length: n }, (_, i) => Math.floor(((i + 0.5) * 8) / n)).flatMap(
    (i) => allMoments[i] ?? [],
  );
};

/**
 * What is done to a VM with HA on two emulated machines, and what must be true afterwards. Each scene is a test of its own;
 * one that fails says what the nodes did, and leaves all mended for the next.
 */
export class Scenes {
  /** The VM that all is done to. */
  static readonly vm = 'web';
  readonly d: Drills;
  /** Its disk has a copy on each machine; else it is on storage that both see. */
  readonly copies: boolean;
  readonly #passed = new Passed();

  private constructor(d: Drills, copies: boolean) {
    this.d = d;
    this.copies = copies;
  }

  /** Brings the machines up, and a VM with HA on n1; takes them down when the tests end. */
  static async open(id: string, { copies = false, machines = 2 } = {}): Promise<Scenes> {
    // A third one takes what two cores have: its agents would give up each call of the ledger before its answer.
    const timing = machines > 2 ? 'emulated' : 'lab';
    const d = await Drills.up({ kind: 'metal', id, nodes: machines, timing });
    t.teardown(() => d.down());
    const s = new Scenes(d, copies);
    if (copies) await d.poolOfDrives();
    await s.act('a VM with HA on emulated machines is armed, on the chip set’s watchdog', async (t) => {
      await d.witness(Scenes.vm, 'n1', copies ? { disks: twoCopies } : {});
      await s.inSync();
      t.match(await d.lab.sh('n1', 'cat /sys/class/watchdog/watchdog0/identity'), /^i6300ESB/);
      t.equal(await d.lab.sh('n1', 'cat /sys/class/watchdog/watchdog0/state'), 'active');
    });
    return s;
  }

  /** Waits until the ledger says that both copies are the same; at once where there is but one. */
  async inSync(): Promise<void> {
    if (!this.copies) return;
    await this.d.inSync(Scenes.vm);
  }

  /** One that has passed with the same programs is not done again by `--full`. */
  scene(name: string, act: (t: Test) => Promise<void>): Promise<unknown> {
    const scene = this.#passed.next(this.d.lab.id, name);
    const when = this.#passed.when(scene);
    if (when !== null)
      return t.test(name, async (t) => void t.pass(`has passed with these programs: ${when}`));
    return this.act(name, act, (s) => this.#passed.note(scene, s));
  }

  private act(
    name: string,
    act: (t: Test) => Promise<void>,
    passed?: (seconds: number) => void,
  ): Promise<unknown> {
    const { d } = this;
    return t.test(name, async (t) => {
      const began = Date.now();
      let done = false;
      try {
        await act(t);
        done = true;
      } catch (e) {
        await d.tell(t);
        await d.lab.heal();
        await d.lab.must('boot', ...d.nodes);
        await d.allThere();
        throw e;
      } finally {
        const seconds = Math.round((Date.now() - began) / 1000);
        t.comment(`${seconds} s`);
        t.same(d.violations(), [], 'no VM twice, no flushed write lost');
        if (done && t.passing()) passed?.(seconds);
      }
    });
  }

  /**
   * What the keeper must do for its machine is left undone: the watchdog resets it. A machine that has booted again before the
   * others' wait is over starts its VM itself.
   */
  watchdogBites(name: string, silence: (owner: string) => Promise<unknown>): Promise<unknown> {
    const { d } = this;
    return this.scene(name, async (t) => {
      const owner = await this.owner();
      const [before, boot] = [await this.bootOf(owner), d.bootOf(Scenes.vm)];
      await silence(owner);
      await waitFor(`${owner} boots again`, async () => (await this.bootOf(owner)) !== before, {
        everyMs: 1_000,
      });
      await d.bootsAfter(Scenes.vm, boot);
      await this.settled();
      t.comment(`the VM is on ${await d.ownerOf(Scenes.vm)}, its machine that was reset is ${owner}`);
      t.not(d.bootOf(Scenes.vm), boot);
    });
  }

  keeperHangs(): Promise<unknown> {
    const { d } = this;
    return this.watchdogBites(
      'the keeper hangs: the watchdog resets the machine, and the VM comes back',
      async (owner) => d.signal(owner, await d.pidOf(owner, 'flotilla-keeper'), 'STOP'),
    );
  }

  /** systemd keeps the device open, so the death itself neither pets nor disarms it. */
  keeperStaysDead(): Promise<unknown> {
    return this.watchdogBites(
      'the keeper dies and nobody starts it again: the watchdog was kept open, and bites',
      (owner) =>
        this.d.lab.sh(
          owner,
          'systemctl mask -q --runtime flotilla-keeper; systemctl kill -s KILL flotilla-keeper',
        ),
    );
  }

  powerLoss(): Promise<unknown> {
    return this.scene('its owner loses power: it comes back elsewhere with all it had flushed', async (t) => {
      const owner = await this.owner();
      await this.takenFrom(t, owner, () => this.d.lab.kill(owner));
      await this.d.lab.boot(owner);
      await this.settled();
    });
  }

  /** @param how - `mute`: what the owner sends is lost; `deaf`: what is sent to it */
  cut(how: 'mute' | 'deaf'): Promise<unknown> {
    const { lab, all } = this.d;
    return this.scene(
      `its owner is ${how}: the VM comes back elsewhere, the old one gives it up`,
      async (t) => {
        const owner = await this.owner();
        await this.takenFrom(t, owner, async () => {
          if (how === 'mute') await lab.cut(owner, 'one-way');
          else for (const n of all) if (n !== owner) await lab.cut(n, owner, 'one-way');
        });
        await lab.heal();
        await this.settled();
      },
    );
  }

  /** Of a VM with copies: only blocks can travel. */
  managementCut(): Promise<unknown> {
    const { d } = this;
    return this.scene(
      'all but the storage network of its owner is cut: the VM comes back, once',
      async (t) => {
        const owner = await this.owner();
        const boot = d.bootOf(Scenes.vm);
        await d.lab.cut(owner);
        await waitFor('the other node owns it', async () => (await d.ownerOf(Scenes.vm)) !== owner);
        await d.lab.heal();
        await d.bootsAfter(Scenes.vm, boot);
        t.equal(await d.ownerOf(Scenes.vm), this.other(owner));
        await this.settled();
      },
    );
  }

  /** Of a VM with copies: all but blocks can travel. */
  storageCut(): Promise<unknown> {
    const { d } = this;
    return this.scene(
      'the storage network alone is cut: the VM goes on where it is, with one copy',
      async (t) => {
        const owner = await this.owner();
        const boot = d.bootOf(Scenes.vm);
        await d.lab.cut('n1', 'n2', 'storage');
        await waitFor('the ledger calls the other copy stale', async () => {
          return (await d.own(Scenes.vm, d.c.founder)).sync === 'stale';
        });
        await d.goesOn(Scenes.vm);
        await d.lab.heal();
        await this.settled();
        t.equal(d.bootOf(Scenes.vm), boot, 'the same boot');
        t.equal(await d.ownerOf(Scenes.vm), owner);
      },
    );
  }

  /** Of a VM with copies on nodes with a storage network: taken off it, and back to it. */
  otherNetwork(): Promise<unknown> {
    const { d } = this;
    return this.scene('its copies change over to another network while it writes', async (t) => {
      const boot = d.bootOf(Scenes.vm);
      const owner = await this.owner();
      const shown = (): Promise<string> => d.lab.sh(owner, 'drbdsetup show');
      const record = await d.c.get<{ record: { addresses: string[] } }>('nodes/n1');
      const storage = record.body.record.addresses[1] ?? '';
      t.match(await shown(), storage, 'over the storage network, as the nodes joined');
      for (const address of [null, storage]) {
        await d.c.must('PATCH', 'nodes/n1', { storageAddress: address });
        await waitFor('they are connected over the other network', async () => {
          return (await shown()).includes(storage) === (address !== null);
        });
        await this.settled();
      }
      t.equal(d.bootOf(Scenes.vm), boot, 'the same boot');
    });
  }

  /** Of a VM with copies on two of three machines: the third gets the second copy, and then the owner dies. */
  otherStandby(): Promise<unknown> {
    const { d } = this;
    return this.scene(
      'another node gets its second copy under writes, then its owner loses power',
      async (t) => {
        const owner = await this.owner();
        const own = await d.own(Scenes.vm, d.c.founder);
        const third = d.nodes.find((n) => !own.copies.some((c) => c.node === n)) ?? '';
        const boot = d.bootOf(Scenes.vm);
        // Refused where that node was too slow to write to its pool in the last half minute.
        const end = await waitFor(`a change to ${third} is taken`, async () => {
          const asked = { node: third, unprotected: true };
          const path = `vms/${d.id(Scenes.vm)}/standby`;
          const op = await d.c.opEnd((await d.c.must<{ op: Op }>('POST', path, asked)).op, 900_000);
          return /not written to of late/.test(op.error?.message ?? '') ? null : op;
        });
        if (end.state !== 'done') throw new Error(JSON.stringify(end));
        t.equal(end.error, null);
        t.equal(d.bootOf(Scenes.vm), boot, 'the same boot');
        await this.inSync();
        await d.untilProtected(Scenes.vm);
        await d.lab.kill(owner);
        await d.bootsAfter(Scenes.vm, boot);
        t.equal(await d.ownerOf(Scenes.vm), third);
        await d.lab.boot(owner);
        await this.settled();
      },
    );
  }

  thereAndBack(): Promise<unknown> {
    const { d } = this;
    return this.scene('it moves there and back while it runs, and its guest notices nothing', async (t) => {
      const home = await this.owner();
      const boot = d.bootOf(Scenes.vm);
      for (const to of [this.other(home), home]) {
        const end = await d.c.opEnd((await this.migrate(to)).op);
        if (end.state !== 'done') throw new Error(`to ${to}: ${JSON.stringify(end)}`);
        t.equal(end.error, null);
        t.comment(JSON.stringify(migrateArgs(end)?.result));
        t.equal(await d.ownerOf(Scenes.vm), to);
        await d.goesOn(Scenes.vm);
        t.equal(d.bootOf(Scenes.vm), boot, 'the same boot');
        await this.settled();
      }
    });
  }

  moment(victim: Victim, { name, reached, then }: Moment): Promise<unknown> {
    const { d } = this;
    return this.scene(`a migration loses its ${victim} ${name}: one machine is left`, async (t) => {
      const from = await this.owner();
      const struck = victim.endsWith('source') ? from : this.other(from);
      const agent = await d.pidOf(struck, 'flotilla-agent');
      const { op } = await this.migrate(this.other(from));
      const at = await waitFor(
        'its moment',
        async () => {
          const { body } = await d.c.get<Op>(`ops/${op.id}`);
          return opFinished(body) || reached(body) ? body : null;
        },
        { everyMs: 200 },
      );
      if (then !== undefined) await d.lab.exec(from, 'bash', '-c', then);
      if (victim.startsWith('agent')) await d.signal(struck, agent, 'KILL');
      else {
        await d.lab.kill(struck);
        await d.lab.boot(struck);
      }
      t.comment(`struck: ${at.state}, ${at.step}`);
      const end = await d.c.opEnd(op);
      t.comment(`${end.state}: ${end.error?.message ?? end.step}`);
      t.ok(opFinished(end), end.state);
      await this.settled();
    });
  }

  /** Once the controller knows what the VM does: a node's radio is lost for a moment where it has too little CPU. */
  private migrate(node: string): Promise<{ op: Op }> {
    return waitFor(`a migration to ${node} is taken`, () =>
      this.d.c.must<{ op: Op }>('POST', `vms/${Scenes.vm}/migrate`, { node }),
    );
  }

  /** Its owner, once it is protected. */
  private async owner(): Promise<string> {
    await this.d.untilProtected(Scenes.vm);
    return this.d.ownerOf(Scenes.vm);
  }

  private other(node: string): string {
    return this.d.nodes.find((n) => n !== node) ?? '';
  }

  private bootOf(node: string): Promise<string> {
    return this.d.lab.sh(node, 'cat /proc/sys/kernel/random/boot_id');
  }

  /** After that is done to its owner, the VM boots on the other machine. */
  private async takenFrom(t: Test, owner: string, act: () => Promise<unknown>): Promise<void> {
    const { d } = this;
    const [boot, ops] = [d.bootOf(Scenes.vm), await d.failoverOps(Scenes.vm)];
    await act();
    const line = await d.takenOver(Scenes.vm, ops);
    t.comment(JSON.stringify(line.phasesMs));
    await d.bootsAfter(Scenes.vm, boot);
    t.equal(await d.ownerOf(Scenes.vm), this.other(owner));
  }

  /** All nodes are there, and one machine runs, on the node that owns it. */
  private async settled(): Promise<void> {
    const { d } = this;
    await d.allThere();
    await waitFor('one machine, where it is owned', async () => {
      const lists = d.nodes.map(async (n) => (await d.machines(n, Scenes.vm)).map(() => n));
      const [found, owner] = [(await Promise.all(lists)).flat(), await d.ownerOf(Scenes.vm)];
      if (found.join() !== owner) throw new Error(`machines on ${found.join()}, owned by ${owner}`);
      return true;
    });
    await d.goesOn(Scenes.vm);
    await this.inSync();
    if (this.copies) await this.oneWriter();
  }

  /** Nothing is left of a migration: the owner alone has the disks open, and the kernels would refuse another. */
  private async oneWriter(): Promise<void> {
    const { d } = this;
    const script = `drbdsetup events2 --now | grep -c '^exists resource .*role:Primary' || true
      drbdsetup show | grep -c allow-two-primaries || true`;
    await waitFor('one node may write to its disks', async () => {
      const owner = await d.ownerOf(Scenes.vm);
      for (const n of d.nodes) {
        const [open, two] = (await d.lab.sh(n, script)).split('\n').map(Number);
        if (open !== (n === owner ? 1 : 0) || two !== 0)
          throw new Error(`${n}: open ${open} times, of two writers ${two} times; ${owner} owns it`);
      }
      return true;
    });
  }
}

/** Numbers from 0 to below 1, the same for the same seed. @see mulberry32 */
export function drawnFrom(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let x = Math.imul(state ^ (state >>> 15), 1 | state);
    x = (x + Math.imul(x ^ (x >>> 7), 61 | x)) ^ x;
    return ((x ^ (x >>> 14)) >>> 0) / 2 ** 32;
  };
}
