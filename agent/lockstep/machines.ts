import { mkdir, readdir, rm } from 'node:fs/promises';
import path from 'node:path';
import { idSchema } from '../../core/domain/schema.js';
import { errorRecord } from '../../core/domain/error.js';
import type { LockstepSeen } from '../env.js';
import { isDead } from '../machine/processes.js';
import { Files } from '../pool/files.js';
import {
  definitionFile,
  LockstepMachine,
  readDefinition,
  type LockstepNode,
  type MachineChange,
} from './machine.js';

/** The machines in lockstep of this node, twins too: one place for {@link QemuLockstep} and {@link LockstepHypervisor}. */
export class LockstepMachines {
  readonly node: LockstepNode;
  readonly #all = new Map<string, LockstepMachine>();
  readonly #listeners = new Set<(vm: string, change: MachineChange) => void>();
  readonly #files = new Files();

  constructor(node: LockstepNode) {
    this.node = node;
  }

  /** Takes up what was defined and what runs. Before anything else is asked. */
  async open(): Promise<void> {
    const dir = path.join(this.node.stateDir, 'lockstep');
    await mkdir(dir, { recursive: true, mode: 0o700 });
    const there = new Set((await readdir(dir)).flatMap((f) => (f.endsWith('.xml') ? [f.slice(0, -4)] : [])));
    // A twin's definition is with its machine only: it ends with it.
    const running = path.join(this.node.runtimeDir, 'lockstep');
    await mkdir(running, { recursive: true, mode: 0o700 });
    for (const vm of await readdir(running)) there.add(vm);
    for (const vm of there) {
      if (!idSchema.safeParse(vm).success) continue;
      try {
        const xml = await readDefinition(definitionFile(this.node.stateDir, vm)).catch(() =>
          readDefinition(path.join(running, vm, 'twin.xml')),
        );
        const machine = this.#make(vm, xml);
        this.#all.set(vm, machine);
        if (!(await machine.resume())) {
          await machine.tidy();
          if (machine.isTwin) this.#all.delete(vm);
        }
      } catch (e) {
        this.node.log.error(`the machine of VM ${vm} cannot be taken up: ${errorRecord(e).message}`, { vm });
      }
    }
    await this.#sweep(dir);
  }

  /** What twins had written that a power loss ended: nobody's. */
  async #sweep(dir: string): Promise<void> {
    for (const name of await readdir(dir)) {
      const [vm = '', kind] = name.split('.');
      if ((kind === 'active' || kind === 'hidden') && (await isDead(vm))) await rm(path.join(dir, name));
    }
  }

  /** The agent ends; what runs runs on. */
  close(): void {
    for (const m of this.#all.values()) m.detach();
  }

  all(): readonly LockstepMachine[] {
    return [...this.#all.values()];
  }

  /** Those that live here. */
  seen(): LockstepSeen[] {
    return this.all()
      .filter((m) => m.active)
      .map((m) => m.seen());
  }

  get(vm: string): LockstepMachine | null {
    return this.#all.get(vm) ?? null;
  }

  /** Called after each change. @returns a function that ends it */
  on(listener: (vm: string, change: MachineChange) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** Keeps a definition; of a machine that runs it is the new text. */
  async define(vm: string, xml: string): Promise<LockstepMachine> {
    const machine = this.#all.get(vm) ?? this.#make(vm, xml);
    this.#all.set(vm, machine);
    machine.setXml(xml);
    const file = definitionFile(this.node.stateDir, vm);
    await this.#files.writeText(`${file}.new`, file, xml);
    this.#tell(vm, { event: 'defined', detail: 'updated' });
    return machine;
  }

  /** A machine that is nobody's definition: a twin. */
  async adopt(vm: string, xml: string): Promise<LockstepMachine> {
    const machine = this.#make(vm, xml);
    this.#all.set(vm, machine);
    await mkdir(machine.runDir, { recursive: true, mode: 0o700 });
    return machine;
  }

  async keepTwin(machine: LockstepMachine): Promise<void> {
    const file = path.join(machine.runDir, 'twin.xml');
    await this.#files.writeText(`${file}.new`, file, machine.xml);
  }

  /** Forgets one that is off. */
  async remove(vm: string): Promise<void> {
    await this.#all.get(vm)?.tidy();
    this.#all.delete(vm);
    await this.#files.remove(definitionFile(this.node.stateDir, vm));
    this.#tell(vm, { event: 'undefined', detail: 'removed' });
  }

  #make(vm: string, xml: string): LockstepMachine {
    return new LockstepMachine(vm, xml, this.node, (change) => {
      const machine = this.#all.get(vm);
      if (machine !== undefined && machine.isTwin && !machine.active) this.#all.delete(vm);
      this.#tell(vm, change);
    });
  }

  #tell(vm: string, change: MachineChange): void {
    for (const f of this.#listeners) f(vm, change);
  }
}
