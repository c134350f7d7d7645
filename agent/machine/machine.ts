import { execFile } from 'node:child_process';
import { access, constants, readFile, rename, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { promisify } from 'node:util';
import { z } from 'zod';
import {
  accelSchema,
  nodeFactsSchema,
  type Accel,
  type Health,
  type NodeFacts,
} from '../../core/domain/node.js';
import { parse } from '../../core/domain/schema.js';
import type { Clock, Log, Machine } from '../env.js';
import { isDead } from './processes.js';
import { bootProbe } from './boot-probe.js';
import { parseLoadAvg1, parseMeminfo, parsePressure, parseStat, type CpuTimes } from './proc.js';

const run = promisify(execFile);

/** Hardware changes by hand; temperatures are the liveliest of the facts. */
export const factsEveryMs = 10 * 60_000;
/** After a failure sooner, in case the node was just busy booting. */
export const factsRetryMs = 60_000;
/** lsblk on a dying drive can hang for minutes; facts are not worth that. */
export const factsDeadlineMs = 30_000;
/** Each time that was too short it is doubled, up to this: on a node that is always slow, all tries would be in vain. */
export const factsDeadlineMaxMs = 240_000;
/** 64 drives and 64 NICs are a tenth of it. */
const factsBytesMax = 1024 * 1024;
/** A CPU share over less is noise. */
const shareOverMs = 500;

const accelFileSchema = z.object({ bootId: z.string(), qemu: z.string(), accel: accelSchema });

export interface NodeMachineOptions {
  /** `/run/flotilla`: what the boot probe found is kept here until the machine boots again. */
  readonly runtimeDir: string;
  /** QEMU's program and leading arguments: `['/usr/bin/qemu-system-x86_64']`. */
  readonly qemu: readonly string[];
  /** Prints facts as JSON: `[process.execPath, '/usr/lib/flotilla/flotilla-facts.mjs']`. */
  readonly factsCommand: readonly string[];
  /** It may take so long at first, ms; 30 s unless told. */
  readonly factsDeadlineMs?: number;
  readonly clock: Clock;
  readonly log: Log;
  /** For tests: where /proc, /dev are; `/` unless told. */
  readonly root?: string;
}

/** The node's machine: cheap numbers from /proc at any time, slow facts from a child process now and then. */
export class NodeMachine implements Machine {
  readonly #o: NodeMachineOptions;
  readonly #root: string;
  readonly #stop = new AbortController();
  #facts: NodeFacts | null = null;
  #weighs = false;
  #trouble = '';
  #factsDeadlineMs: number;
  #accel: Promise<Accel> | null = null;
  #last: { times: CpuTimes; atMs: number; usedPct: number } | null = null;

  constructor(o: NodeMachineOptions) {
    this.#o = o;
    this.#root = o.root ?? '/';
    this.#factsDeadlineMs = o.factsDeadlineMs ?? factsDeadlineMs;
  }

  /** Begins collecting facts in the background. */
  start(): void {
    void this.#collectForEver();
    void readFile(path.join(this.#root, 'sys/fs/cgroup/cgroup.controllers'), 'utf8')
      .then((text) => (this.#weighs = text.split(/\s+/).includes('cpu')))
      .catch(() => undefined);
  }

  stop(): void {
    this.#stop.abort();
  }

  facts(): NodeFacts | null {
    return this.#facts;
  }

  cpuTune(): { readonly cpuMHz: number } | null {
    return this.#weighs ? { cpuMHz: this.#facts?.cpuMHz ?? 0 } : null;
  }

  isDead(vmId: string): Promise<boolean> {
    return isDead(vmId, this.#root);
  }

  /** Of the collecting of facts: the machine itself is well as long as this is asked. */
  health(): Health {
    return { part: 'hardware facts', ok: this.#trouble === '', text: this.#trouble };
  }

  accel(): Promise<Accel> {
    // A probe that could not even be tried is tried again at the next call.
    this.#accel ??= this.#probe().catch((error: unknown) => {
      this.#accel = null;
      throw error;
    });
    return this.#accel;
  }

  async use(): ReturnType<Machine['use']> {
    const [stat, meminfo, loadavg] = await Promise.all(
      ['stat', 'meminfo', 'loadavg'].map((f) => readFile(path.join(this.#root, 'proc', f), 'utf8')),
    );
    // Kernels without PSI have no such files.
    const [cpuPct, memoryPct, ioPct] = await Promise.all(
      ['cpu', 'memory', 'io'].map((f) =>
        readFile(path.join(this.#root, 'proc/pressure', f), 'utf8').then(parsePressure, () => null),
      ),
    );
    const times = parseStat(stat ?? '');
    const memory = parseMeminfo(meminfo ?? '');
    return {
      cpus: times.cpus,
      cpuUsedPct: this.#share(times),
      memoryBytes: memory.totalBytes,
      memoryUsedBytes: memory.totalBytes - memory.availableBytes,
      loadAvg1: parseLoadAvg1(loadavg ?? ''),
      upSinceMs: times.bootMs,
      ...(typeof cpuPct === 'number' && typeof memoryPct === 'number' && typeof ioPct === 'number'
        ? { pressure: { cpuPct, memoryPct, ioPct } }
        : {}),
    };
  }

  /** Share of the CPUs used since the call before; over all time since boot at the first. */
  #share(times: CpuTimes): number {
    const now = this.#o.clock.nowMs();
    const last = this.#last;
    if (last !== null && now - last.atMs < shareOverMs) return last.usedPct;
    const busy = times.busy - (last?.times.busy ?? 0);
    const total = times.total - (last?.times.total ?? 0);
    const usedPct = total > 0 ? Math.min(100, Math.max(0, Math.round((busy / total) * 1000) / 10)) : 0;
    this.#last = { times, atMs: now, usedPct };
    return usedPct;
  }

  async #collectForEver(): Promise<void> {
    const { signal } = this.#stop;
    while (!signal.aborted) {
      const ok = await this.#collect();
      await this.#o.clock.sleep(ok ? factsEveryMs : factsRetryMs, signal).catch(() => undefined);
    }
  }

  async #collect(): Promise<boolean> {
    try {
      this.#facts = await factsBy(this.#o.factsCommand, {
        timeoutMs: this.#factsDeadlineMs,
        signal: this.#stop.signal,
      });
      this.#trouble = '';
      return true;
    } catch (error) {
      if (this.#stop.signal.aborted) return false;
      const killed = (error as { killed?: boolean }).killed === true;
      const why = killed
        ? `no answer within ${this.#factsDeadlineMs / 1000} s`
        : (error as Error).message.split('\n')[0];
      if (killed) this.#factsDeadlineMs = Math.min(this.#factsDeadlineMs * 2, factsDeadlineMaxMs);
      this.#trouble = `cannot be collected: ${why}`.slice(0, 500);
      this.#o.log.warn('hardware facts', { error: this.#trouble });
      return false;
    }
  }

  async #probe(): Promise<Accel> {
    const { qemu, runtimeDir, log } = this.#o;
    const kvm = path.join(this.#root, 'dev/kvm');
    // Nothing to try: then there is nothing to keep either, somebody may load the module later.
    if (
      !(await access(kvm, constants.R_OK | constants.W_OK).then(
        () => true,
        () => false,
      ))
    )
      return 'tcg';
    const bootId = (await readFile(path.join(this.#root, 'proc/sys/kernel/random/boot_id'), 'utf8')).trim();
    const file = path.join(runtimeDir, 'accel.json');
    const program = qemu.join(' ');
    const kept = accelFileSchema.safeParse(
      await readFile(file, 'utf8')
        .then(JSON.parse, () => null)
        .catch(() => null),
    );
    if (kept.success && kept.data.bootId === bootId && kept.data.qemu === program) return kept.data.accel;
    const { ok, text } = await bootProbe({ qemu, accel: 'kvm', dir: runtimeDir });
    const accel: Accel = ok ? 'kvm' : 'tcg';
    if (ok) log.info('guests run by KVM');
    else log.warn('guests are emulated: KVM did not boot one', { why: text });
    await writeFile(`${file}.new`, JSON.stringify({ bootId, qemu: program, accel }));
    await rename(`${file}.new`, file);
    return accel;
  }
}

/** The facts of this machine, by the program that collects them. @throws FlotillaError `bad-input`, and of the program */
export async function factsBy(
  command: readonly string[],
  o: { readonly timeoutMs: number; readonly signal?: AbortSignal },
): Promise<NodeFacts> {
  const [program = '', ...args] = command;
  const { stdout } = await run(program, args, {
    timeout: o.timeoutMs,
    killSignal: 'SIGKILL',
    maxBuffer: factsBytesMax,
    ...(o.signal === undefined ? {} : { signal: o.signal }),
    env: { PATH: process.env['PATH'] ?? '/usr/sbin:/usr/bin:/sbin:/bin', LC_ALL: 'C' },
  });
  return parse(nodeFactsSchema, JSON.parse(stdout), 'the hardware facts');
}
