import { mkdir, readFile, rm } from 'node:fs/promises';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { z } from 'zod';
import { FlotillaError, errorRecord } from '../../core/domain/error.js';
import type { Hardware } from '../../core/domain/hardware.js';
import type { Accel } from '../../core/domain/node.js';
import type { Clock, Log, LockstepSeen, Sockets } from '../env.js';
import type { LifecycleChange, ShutOffReason } from '../libvirt/hypervisor.js';
import { Files } from '../pool/files.js';
import type { Tool } from '../pool/tool.js';
import { parseDomain } from '../vm/domain-xml.js';
import { commandLine, diskAndNic, type TwinPlan } from './command-line.js';
import { isAlive, kill, lastWords, launch, type Running } from './process.js';
import { Qmp, type QmpEvent } from './qmp.js';
import type { Scopes } from './scopes.js';
import { makeTap, removeTap, tapName } from '../net/tap.js';

/** A loaded node takes its time until a QEMU answers. */
const startMs = 60_000;
const lookMs = 20;
/** An agent that begins anew waits so long for each that is there. */
const resumeMs = 3_000;
/**
 * So long after its start a machine on emulated CPUs gets no twin, ms. QEMU's translated code is not thrown away when a
 * checkpoint puts other code in its place: a twin made while a guest loads its drivers runs what was there before (measured:
 * 7 of 12 panicked). @see docs/lockstep.md
 */
const settleMs = (accel: Accel): number => (accel === 'kvm' ? 0 : 30_000);
/** A monitor that was lost while its QEMU lives is tried again so often. */
const againMs = 200;
const toolMs = 30_000;

/** What machines in lockstep need of their node. */
export interface LockstepNode {
  /** `/run/flotilla`: what a machine that runs leaves for the next agent, below `lockstep`. */
  readonly runtimeDir: string;
  /** What is kept while it is off, below `lockstep`. */
  readonly stateDir: string;
  /** QEMU's program and leading arguments. */
  readonly qemu: readonly string[];
  readonly qemuImg: string;
  /** Where that QEMU has its BIOS. */
  readonly firmware: string;
  /** The node's certificates, as QEMU wants them. */
  readonly tlsDir: string;
  readonly sockets: Pick<Sockets, 'paths'>;
  accel(): Promise<Accel>;
  readonly scopes: Scopes;
  readonly clock: Clock;
  readonly log: Log;
  readonly run: Tool;
}

const roleSchema = z.enum(['alone', 'primary', 'twin']);
const stateSchema = z.object({
  pid: z.number().int().positive(),
  startTicks: z.string(),
  role: roleSchema,
  /** Number of the pair it is in or was last in. */
  pair: z.number().int(),
  inPair: z.boolean(),
  wasTwin: z.boolean(),
  /** What a twin wrote is being put into its disk. */
  merging: z.boolean(),
});
type State = z.output<typeof stateSchema>;

/** Of `qemu-img info`. */
const sizeSchema = z.object({ 'virtual-size': z.number().int().positive() });

/** The change of a machine that its listeners hear: a bell, or one of libvirt's own words. */
export type MachineChange = LifecycleChange | { readonly event: 'reboot' } | null;

/** Whether a machine is one for lockstep: says so in its definition. */
export const isLockstep = (xml: string): boolean => /<f:vm [^>]*lockstep=["']1["']/.test(xml);

/** The machine of one VM, on or off, and its QEMU. What it knows is what QEMU said last: nothing here waits for a QEMU that hangs. */
export class LockstepMachine {
  readonly vm: string;
  readonly runDir: string;
  readonly log: string;
  #xml: string;
  #n: LockstepNode;
  #qmp: Qmp | null = null;
  #running: Running | null = null;
  #state: Omit<State, 'pid' | 'startTicks'> = fresh;
  #onChange: (change: MachineChange) => void;
  #files = new Files();
  /** The guest's own stop and go, as events tell. */
  #goes = false;
  #checkpoints = 0;
  #lastMs: number | null = null;
  #broken: string | null = null;
  #panicked = false;
  /** Monotonic ms from which on a twin may be made. */
  #settlesMs = Infinity;
  #off: ShutOffReason = 'unknown';
  #ending: ShutOffReason | null = null;
  /** The guest is to start anew when it has shut down. */
  rebooting = false;

  constructor(vm: string, xml: string, n: LockstepNode, onChange: (change: MachineChange) => void) {
    this.vm = vm;
    this.#xml = xml;
    this.#n = n;
    this.#onChange = onChange;
    this.runDir = path.join(n.runtimeDir, 'lockstep', vm);
    this.log = path.join(n.stateDir, 'lockstep', `${vm}.log`);
  }

  get xml(): string {
    return this.#xml;
  }
  get hardware(): Hardware {
    return parseDomain(this.#xml).hardware;
  }
  get gen(): number {
    return parseDomain(this.#xml).mark?.gen ?? 0;
  }
  get pid(): number | null {
    return this.#running?.pid ?? null;
  }
  get active(): boolean {
    return this.#running !== null;
  }
  get state(): Readonly<Omit<State, 'pid' | 'startTicks'>> {
    return this.#state;
  }
  get off(): ShutOffReason {
    return this.#off;
  }
  /** Its guest runs; one in a pair does, though it stands still for each checkpoint. */
  get running(): boolean {
    const { inPair, role } = this.#state;
    return this.active && (this.#goes || (inPair && (this.#checkpoints > 0 || role === 'primary')));
  }
  get isTwin(): boolean {
    return this.#state.role === 'twin';
  }
  get tap(): string {
    return tapName(this.vm);
  }
  get overlays(): { readonly active: string; readonly hidden: string } {
    const of = (word: string): string => path.join(this.#n.stateDir, 'lockstep', `${this.vm}.${word}`);
    return { active: of('active'), hidden: of('hidden') };
  }

  /** @throws FlotillaError `wrong-state`: no QEMU of it runs; `hypervisor-unavailable`: it does not answer */
  qmp(): Qmp {
    if (this.#qmp?.isOpen === true) return this.#qmp;
    throw new FlotillaError(
      this.active ? 'hypervisor-unavailable' : 'wrong-state',
      `No machine of VM ${this.vm} ${this.active ? 'answers' : 'runs'} here`,
      { hint: 'Look again when it runs.' },
    );
  }

  seen(): LockstepSeen {
    return {
      vm: this.vm,
      gen: this.gen,
      // Half of a pair is one that somebody has to bring to an end.
      role: this.#state.inPair && this.#state.role === 'alone' ? 'primary' : this.#state.role,
      running: this.running,
      checkpoints: this.#checkpoints,
      lastCheckpointMs: this.#lastMs,
      // Of a pair that is over nothing is left to say.
      broken: this.#state.inPair ? this.#broken : null,
      panicked: this.#state.inPair && this.#panicked,
      // The guest of one that was a twin began long before it.
      settled: this.#state.wasTwin || this.#n.clock.nowMs() >= this.#settlesMs,
    };
  }

  /** Changes what it is known as: in the text, which is all that is kept of it. */
  setXml(xml: string): void {
    this.#xml = xml;
  }

  /** @throws FlotillaError `tool-failed`: QEMU does not start, with its words; `unsupported`: hardware that has no lockstep */
  async start(slice: string, twin: TwinPlan | null): Promise<void> {
    const n = this.#n;
    const { nic } = diskAndNic(this.hardware);
    await this.tidy();
    await mkdir(this.runDir, { recursive: true, mode: 0o700 });
    await mkdir(path.dirname(this.log), { recursive: true, mode: 0o700 });
    await makeTap(n.run, this.tap, nic.mac);
    if (twin !== null) await this.#makeOverlays();
    const qmp = path.join(this.runDir, 'qmp.sock');
    const accel = await n.accel();
    const words = commandLine({
      vm: this.vm,
      hardware: this.hardware,
      accel,
      tap: this.tap,
      qmp,
      ...n.sockets.paths(this.vm),
      firmware: n.firmware,
      tlsDir: n.tlsDir,
      twin,
    });
    this.#checkpoints = 0;
    this.#lastMs = null;
    this.#broken = null;
    this.#panicked = false;
    this.#settlesMs = n.clock.nowMs() + settleMs(accel);
    this.#ending = null;
    this.#goes = false;
    this.rebooting = false;
    this.#running = await launch([...n.qemu, ...words], {
      log: this.log,
      // Modules of Debian's own QEMU are not for this one.
      env: { QEMU_MODULE_DIR: n.firmware },
      onEnd: () => void this.#look(),
    });
    this.#state = { ...fresh, role: twin === null ? 'alone' : 'twin', inPair: twin !== null };
    try {
      await this.#save();
      await n.scopes.put(this.#running.pid, this.vm, slice);
      await this.#connect(startMs);
    } catch (cause) {
      const words = await lastWords(this.log);
      await this.end('failed');
      throw new FlotillaError('tool-failed', `QEMU of VM ${this.vm} does not start`, {
        hint: `Its words: ${words.slice(0, 300) || 'none'}`,
        cause,
      });
    }
  }

  /** Takes up a machine that an agent before this one had started. @returns false: none of it runs */
  async resume(): Promise<boolean> {
    const text = await this.#files.readText(path.join(this.runDir, 'state.json'));
    if (text === null) return false;
    const state = stateSchema.safeParse(JSON.parse(text));
    if (!state.success) return false;
    const { pid, startTicks, ...rest } = state.data;
    this.#state = rest;
    if (!(await isAlive({ pid, startTicks }))) {
      this.#off = 'daemon';
      return false;
    }
    this.#running = { pid, startTicks };
    // When it began, the agent before this one knew.
    this.#settlesMs = this.#n.clock.nowMs() + settleMs(await this.#n.accel());
    const connected = this.#connect(startMs).catch((e: unknown) => {
      this.#n.log.warn(`VM ${this.vm}: ${errorRecord(e).message}`);
      void this.#look();
    });
    // One that is frozen does not answer, and the agent has other VMs.
    await Promise.race([connected, sleep(resumeMs)]);
    return true;
  }

  async change(change: Partial<Omit<State, 'pid' | 'startTicks'>>): Promise<void> {
    if (change.inPair === true) {
      this.#checkpoints = 0;
      this.#lastMs = null;
      this.#broken = null;
      this.#panicked = false;
    }
    this.#state = { ...this.#state, ...change };
    await this.#save();
    this.#onChange(null);
  }

  /** Kills its QEMU, and waits until nothing of it runs. Idempotent. */
  async end(why: ShutOffReason): Promise<void> {
    const running = this.#running;
    this.#ending = why;
    if (running !== null) {
      await kill(running);
      await this.#ended();
    }
    await this.tidy();
  }

  /** Lets go of its QEMU, which runs on: the next agent takes it up. */
  detach(): void {
    this.#running = null;
    this.#qmp?.close();
  }

  /** The guest has shut down, or is told to: QEMU ends when what its disk lacks has been written. */
  async quit(why: ShutOffReason): Promise<void> {
    this.#ending = why;
    await this.merged();
    await this.qmp()
      .ask('quit')
      .catch(() => undefined);
  }

  /** Waits until what a twin wrote is in its disk. */
  async merged(): Promise<void> {
    if (!this.#state.merging) return;
    while (this.active) {
      // QEMU's own job, which it lists nowhere: the layers leave the chain of nodes when it is done.
      const nodes = (await this.qmp().ask('query-named-block-nodes', { flat: true })) as { drv: string }[];
      if (!nodes.some((n) => n.drv === 'qcow2')) break;
      await sleep(lookMs);
    }
    const { active, hidden } = this.overlays;
    if (this.active) await this.change({ merging: false });
    for (const f of [active, hidden]) await rm(f, { force: true });
  }

  /** Takes away what a machine that is off leaves behind. */
  async tidy(): Promise<void> {
    if (this.active) return;
    await removeTap(this.#n.run, this.tap);
    await rm(this.runDir, { recursive: true, force: true });
    if (this.#state.role !== 'twin') return;
    const { active, hidden } = this.overlays;
    for (const f of [active, hidden]) await rm(f, { force: true });
  }

  async #makeOverlays(): Promise<void> {
    const { disk } = diskAndNic(this.hardware);
    const size = await this.#sizeOf(disk.path);
    for (const file of Object.values(this.overlays)) {
      await rm(file, { force: true });
      await this.#n.run(this.#n.qemuImg, ['create', '-q', '-f', 'qcow2', file, String(size)], {
        deadlineMs: toolMs,
      });
    }
  }

  /** Bytes of a raw file, or of a device, of which a file system knows none. */
  async #sizeOf(disk: string): Promise<number> {
    const info = ['info', '--output=json', '-f', 'raw', disk];
    const { stdout } = await this.#n.run(this.#n.qemuImg, info, { deadlineMs: toolMs });
    return sizeSchema.parse(JSON.parse(stdout))['virtual-size'];
  }

  async #save(): Promise<void> {
    if (this.#running === null) return;
    const file = path.join(this.runDir, 'state.json');
    await this.#files.writeText(`${file}.new`, file, JSON.stringify({ ...this.#running, ...this.#state }));
  }

  async #connect(withinMs: number): Promise<void> {
    const untilMs = performance.now() + withinMs;
    for (;;) {
      try {
        const qmp = await Qmp.open(path.join(this.runDir, 'qmp.sock'));
        this.#qmp = qmp;
        qmp.on((e) => this.#heard(e));
        void qmp.closed.then(() => this.#look());
        const { running, status } = (await qmp.ask('query-status')) as { running: boolean; status: string };
        this.#goes = running;
        if (status === 'shutdown') this.#shutDown();
        if (this.#state.merging) void this.merged().catch(() => undefined);
        return;
      } catch (e) {
        if (this.#running === null || !(await isAlive(this.#running)) || performance.now() > untilMs) throw e;
        await sleep(lookMs);
      }
    }
  }

  /** Its monitor or its process has ended: which of the two? */
  async #look(): Promise<void> {
    const running = this.#running;
    if (running === null || this.#qmp?.isOpen === true) return;
    if (!(await isAlive(running))) {
      if (this.#running === running) await this.#ended();
      return;
    }
    await sleep(againMs);
    await this.#connect(startMs).catch(() => void this.#look());
  }

  async #ended(): Promise<void> {
    if (this.#running === null) return;
    this.#running = null;
    this.#qmp?.close();
    this.#qmp = null;
    this.#goes = false;
    this.#off = this.#ending ?? 'crashed';
    if (this.#ending === null)
      this.#n.log.error(`QEMU of VM ${this.vm} has ended by itself`, { words: await lastWords(this.log) });
    await this.tidy().catch(() => undefined);
    const detail = this.#off === 'shutdown' || this.#off === 'destroyed' ? this.#off : 'crashed';
    this.#onChange({ event: 'stopped', detail });
  }

  #heard(e: QmpEvent): void {
    switch (e.event) {
      case 'STOP':
        this.#goes = false;
        if (!this.#state.inPair) this.#onChange({ event: 'suspended', detail: 'paused' });
        return;
      case 'RESUME':
        this.#goes = true;
        if (!this.#state.inPair) return this.#onChange({ event: 'resumed', detail: 'unpaused' });
        this.#checkpoints++;
        this.#lastMs = this.#n.clock.nowMs();
        return this.#onChange(null);
      case 'COLO_EXIT':
        if (e.data['reason'] === 'error') this.#broken = 'QEMU has lost its other half';
        return this.#onChange(null);
      case 'SHUTDOWN':
        if (e.data['guest'] === true) this.#shutDown();
        return;
      case 'GUEST_PANICKED':
        this.#panicked = true;
        this.#n.log.warn(`the guest of VM ${this.vm} has panicked`, { role: this.#state.role });
        return this.#onChange(null);
      case 'RESET':
        return this.#onChange({ event: 'reboot' });
    }
  }

  #shutDown(): void {
    if (this.rebooting) {
      this.rebooting = false;
      const qmp = this.qmp();
      void qmp
        .ask('system_reset')
        .then(() => qmp.ask('cont'))
        .catch((e: unknown) =>
          this.#n.log.warn(`VM ${this.vm} is not started anew: ${errorRecord(e).message}`),
        );
      return;
    }
    // A twin that has shut down stays: its primary says what becomes of the VM.
    if (this.isTwin) return;
    void this.quit('shutdown').catch((e: unknown) =>
      this.#n.log.warn(`VM ${this.vm} has shut down and QEMU does not end: ${errorRecord(e).message}`),
    );
  }
}

const fresh: Omit<State, 'pid' | 'startTicks'> = {
  role: 'alone',
  pair: 0,
  inPair: false,
  wasTwin: false,
  merging: false,
};

/** What a definition of that VM is kept as, in a directory. */
export const definitionFile = (stateDir: string, vm: string): string =>
  path.join(stateDir, 'lockstep', `${vm}.xml`);

export const readDefinition = (file: string): Promise<string> => readFile(file, 'utf8');
