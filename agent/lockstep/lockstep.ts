import { createServer } from 'node:net';
import { access } from 'node:fs/promises';
import { FlotillaError, errorRecord } from '../../core/domain/error.js';
import type { Lockstep, LockstepDoor, LockstepSeen, WorkOptions } from '../env.js';
import { Turns } from '../pool/turn.js';
import { drop, join, openDoors, shut, takeOver } from './colo.js';
import { diskAndNic, type TwinPorts } from './command-line.js';
import type { LockstepMachine } from './machine.js';
import type { LockstepMachines } from './machines.js';
import { withMark } from './definition.js';
import { twinSlice } from './scopes.js';
import { joinBridge } from '../net/tap.js';

/** Pairs of machines by QEMU's COLO. @see docs/lockstep.md */
export class QemuLockstep implements Lockstep {
  readonly #machines: LockstepMachines;
  readonly #turns = new Turns();
  /** What ends the copying to a twin. */
  readonly #joins = new Map<string, AbortController>();

  constructor(machines: LockstepMachines) {
    this.#machines = machines;
  }

  async usable(): Promise<string | null> {
    const program = this.#machines.node.qemu.at(-1) ?? '';
    return access(program).then(
      () => null,
      () => 'this node has no QEMU 11.1 for lockstep',
    );
  }

  async observe(): Promise<readonly LockstepSeen[]> {
    return this.#machines.seen();
  }

  on(listener: () => void): () => void {
    return this.#machines.on(() => listener());
  }

  async bear(o: { vm: string; xml: string; gen: number; address: string }): Promise<LockstepDoor> {
    return this.#turns.take(o.vm, async () => {
      // What was here of it is of an earlier stay.
      await this.#machines.get(o.vm)?.end('destroyed');
      await this.#machines.remove(o.vm);
      const machine = await this.#machines.adopt(o.vm, withMark(o.xml, { gen: o.gen }));
      const { active, hidden } = machine.overlays;
      const ports = await freePorts();
      try {
        await machine.start(twinSlice, { address: o.address, ports, active, hidden });
        await this.#machines.keepTwin(machine);
        await openDoors(machine.qmp(), o.address, ports);
      } catch (e) {
        await machine.end('failed');
        throw e;
      }
      return { address: o.address, ...ports };
    });
  }

  async join(vm: string, door: LockstepDoor, o: WorkOptions): Promise<{ pausedMs: number }> {
    return this.#turns.take(vm, async () => {
      const { node } = this.#machines;
      const machine = this.#one(vm);
      const { pair, wasTwin, inPair } = machine.state;
      if (inPair) {
        throw new FlotillaError('wrong-state', `VM ${vm} has a twin already`, {
          hint: 'It must go on alone before it gets another one.',
        });
      }
      await machine.merged();
      await machine.change({ pair: pair + 1, inPair: true });
      const stop = new AbortController();
      this.#joins.set(vm, stop);
      try {
        const pausedMs = await join(machine.qmp(), {
          gen: pair + 1,
          address: door.address,
          ports: door,
          tlsDir: node.tlsDir,
          runDir: machine.runDir,
          wasTwin,
          signal: AbortSignal.any([o.signal, stop.signal]),
          progress: (share) => o.progress(share),
          nowMs: () => node.clock.nowMs(),
        });
        await machine.change({ role: 'primary' });
        return { pausedMs };
      } catch (e) {
        if (!machine.active) throw e;
        node.log.warn(`VM ${vm} gets no twin: ${errorRecord(e).message}`, { vm });
        await drop(machine.qmp(), pair + 1);
        await machine.change({ role: 'alone', inPair: false });
        throw e;
      } finally {
        this.#joins.delete(vm);
      }
    });
  }

  async shut(vm: string): Promise<void> {
    const machine = this.#machines.get(vm);
    if (machine?.active === true && machine.isTwin) await shut(machine.qmp());
  }

  async takeOver(vm: string, gen: number): Promise<void> {
    return this.#turns.take(vm, async () => {
      const { node } = this.#machines;
      const machine = this.#one(vm);
      if (!machine.isTwin) return;
      const { nic } = diskAndNic(machine.hardware);
      // Before anything of it leaves, it is where the keeper freezes it with this node.
      await node.scopes.put(machine.pid ?? 0, vm, sliceOf(machine.xml));
      await takeOver(machine.qmp(), () => joinBridge(node.run, machine.tap, nic.bridge));
      await machine.change({ role: 'alone', inPair: false, wasTwin: true, merging: true });
      await this.#machines.define(vm, withMark(machine.xml, { gen }));
      void machine
        .merged()
        .catch((e: unknown) => node.log.warn(`VM ${vm}: ${errorRecord(e).message}`, { vm }));
    });
  }

  async goAlone(vm: string, gen: number): Promise<void> {
    const machine = this.#one(vm);
    this.#joins.get(vm)?.abort(new Error('it is to go on alone'));
    return this.#turns.take(vm, async () => {
      if (machine.state.inPair) {
        await drop(machine.qmp(), machine.state.pair);
        await machine.change({ role: 'alone', inPair: false });
      }
      await this.#machines.define(vm, withMark(machine.xml, { gen }));
    });
  }

  async end(vm: string): Promise<void> {
    await this.#machines.get(vm)?.end('destroyed');
  }

  #one(vm: string): LockstepMachine {
    const machine = this.#machines.get(vm);
    if (machine?.active === true) return machine;
    throw new FlotillaError('wrong-state', `No machine of VM ${vm} runs here`, {
      hint: 'Look where it runs.',
    });
  }
}

/** The slice that libvirt would have put it in. */
export const sliceOf = (xml: string): string =>
  /<partition>\/machine\/ha<\/partition>/.test(xml) ? 'machine-ha.slice' : 'machine.slice';

/** Four ports that nobody uses now. Another program may be quicker: then the twin does not start, and is born again. */
async function freePorts(): Promise<TwinPorts> {
  const servers = [createServer(), createServer(), createServer(), createServer()];
  try {
    const ports = await Promise.all(
      servers.map(
        (s) =>
          new Promise<number>((resolve, reject) => {
            s.once('error', reject);
            s.listen(0, () => {
              const at = s.address();
              resolve(typeof at === 'object' && at !== null ? at.port : 0);
            });
          }),
      ),
    );
    const [memory = 0, disk = 0, input = 0, output = 0] = ports;
    return { memory, disk, input, output };
  } finally {
    for (const s of servers) s.close();
  }
}
