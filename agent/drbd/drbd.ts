import { chmod, mkdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { FlotillaError } from '../../core/domain/error.js';
import type { Replica } from '../../core/domain/replica.js';
import type { Clock, Replication, ReplicationUse } from '../env.js';
import { readIfThere } from '../pki/store.js';
import { followTool, runTool, type Teller, type Tool } from '../pool/tool.js';
import { resourceConfig, resourceName } from './config.js';
import { parseDump, type Dump } from './events.js';

export interface DrbdOptions {
  readonly node: string;
  readonly clock: Clock;
  /** Configurations: on a file system that a reboot empties, because they hold secrets and the ledger has them. */
  readonly runDir?: string;
  /** What the kernel asks when a peer is lost. */
  readonly handler?: string;
  readonly run?: Tool;
  readonly follow?: Teller;
  readonly module?: string;
}

/** The kernel's answer to one command comes at once, but a peer that is asked may take its time-outs, ms. */
const commandMs = 30_000;
/** A promotion may call the handler, which asks the ledger. @see fence-door.ts */
const promoteMs = 60_000;
/** QEMU that has just ended may hold the device for a moment, ms. */
const releaseMs = 10_000;

/**
 * Pairs of disks through DRBD 8.4's own programs. What it does is in the words of `core/domain/replica.ts`; that there is a
 * DRBD stays in this folder.
 */
export class Drbd implements Replication {
  readonly #o: DrbdOptions;
  readonly #run: Tool;
  readonly #runDir: string;
  readonly #module: string;
  #usable: ReplicationUse | null = null;

  constructor(o: DrbdOptions) {
    this.#o = o;
    this.#run = o.run ?? runTool;
    this.#runDir = o.runDir ?? '/run/flotilla/drbd';
    this.#module = o.module ?? '/sys/module/drbd';
  }

  async usable(): Promise<ReplicationUse> {
    if (this.#usable?.ok === true) return this.#usable;
    this.#usable = await this.#prepare();
    return this.#usable;
  }

  async observe(): Promise<Dump> {
    const r = await this.#run('drbdsetup', ['events2', '--now', '--statistics'], {
      deadlineMs: commandMs,
      brief: true,
    });
    return parseDump(r.stdout);
  }

  watch(changed: () => void, signal: AbortSignal): Promise<void> {
    return (this.#o.follow ?? followTool)('drbdsetup', ['events2'], changed, signal);
  }

  async make(replica: Replica, volume: number): Promise<void> {
    const file = await this.#write(replica);
    const on = `${resourceName(replica.vm)}/${volume}`;
    await this.#adm(replica.vm, ['--', '--force', 'create-md'], on, { file });
  }

  async reconnects(replica: Replica): Promise<boolean> {
    const was = await readIfThere(this.#path(replica.vm));
    if (was === null) return false;
    const now = resourceConfig(replica, this.#o.node);
    if (sides(was) === sides(now)) return false;
    // What would be done, only said: an address that no card here has is found out before anything is cut.
    await this.#adm(replica.vm, ['-d', 'adjust'], undefined, { file: await this.#write(replica) });
    return true;
  }

  async adjust(replica: Replica): Promise<void> {
    const file = await this.#write(replica);
    await this.#adm(replica.vm, ['adjust'], undefined, { file });
    // Only now: what the kernel was told last is what stands there.
    await rename(file, this.#path(replica.vm));
  }

  async resize(vm: string, volume: number): Promise<void> {
    await this.#adm(vm, ['resize'], `${resourceName(vm)}/${volume}`);
  }

  async closeVolume(minor: number): Promise<void> {
    for (const word of ['secondary', 'detach'])
      await this.#run('drbdsetup', [word, String(minor)], { deadlineMs: commandMs, finish: true });
  }

  async skipFirstSync(vm: string, volume: number): Promise<void> {
    await this.#adm(vm, ['--', '--clear-bitmap', 'new-current-uuid'], `${resourceName(vm)}/${volume}`);
  }

  async promote(vm: string): Promise<void> {
    try {
      await this.#adm(vm, ['primary'], resourceName(vm), { deadlineMs: promoteMs });
    } catch (cause) {
      throw new FlotillaError('replica-refused', 'The copy here may not be written to', {
        hint: 'The cause below is the kernel’s; it asks the ledger when the other copy is out of reach.',
        cause,
      });
    }
  }

  async demote(vm: string): Promise<void> {
    const { clock } = this.#o;
    const until = clock.nowMs() + releaseMs;
    for (;;) {
      try {
        return await this.#adm(vm, ['secondary']);
      } catch (e) {
        if (clock.nowMs() >= until) throw e;
        await clock.sleep(250);
      }
    }
  }

  allowTwoPrimaries(vm: string, on: boolean): Promise<void> {
    return this.#adm(vm, ['net-options', `--allow-two-primaries=${on ? 'yes' : 'no'}`]);
  }

  disconnect(vm: string): Promise<void> {
    return this.#adm(vm, ['disconnect']);
  }

  cutOff(vm: string): Promise<void> {
    return this.#adm(vm, ['--', '--force', 'disconnect']);
  }

  connect(vm: string, o: { readonly discardMine: boolean }): Promise<void> {
    return this.#adm(vm, o.discardMine ? ['--', '--discard-my-data', 'connect'] : ['connect']);
  }

  async resume(minors: readonly number[]): Promise<void> {
    for (const m of minors)
      await this.#run('drbdsetup', ['resume-io', String(m)], { deadlineMs: commandMs, finish: true });
  }

  async down(vm: string): Promise<void> {
    await this.#run('drbdsetup', ['down', resourceName(vm)], {
      deadlineMs: commandMs,
      codes: [10],
      finish: true,
    });
    for (const end of ['', '.next']) await rm(this.#path(vm) + end, { force: true });
  }

  /** Loads the module, and makes the kernel ask our handler and nobody else. */
  async #prepare(): Promise<ReplicationUse> {
    const handler = this.#o.handler ?? '/usr/lib/flotilla/fence-peer';
    try {
      await this.#run('modprobe', ['drbd', `usermode_helper=${handler}`], { deadlineMs: commandMs });
    } catch {
      return { ok: false, why: 'the kernel of this node has no DRBD' };
    }
    try {
      const version = (await readFile(`${this.#module}/version`, 'utf8')).trim();
      if (!version.startsWith('8.4.'))
        return { ok: false, why: `DRBD ${version.slice(0, 20)} is not 8.4, which this version drives` };
      // Loaded before us it would ask another program.
      await writeFile(`${this.#module}/parameters/usermode_helper`, handler);
      return { ok: true };
    } catch (e) {
      return { ok: false, why: `DRBD cannot be set up: ${e instanceof Error ? e.message : String(e)}` };
    }
  }

  /** @returns the file of a configuration that is not in force yet */
  async #write(replica: Replica): Promise<string> {
    const text = resourceConfig(replica, this.#o.node);
    await mkdir(this.#runDir, { recursive: true, mode: 0o700 });
    await chmod(this.#runDir, 0o700);
    const path = `${this.#path(replica.vm)}.next`;
    await writeFile(`${path}.tmp`, text, { mode: 0o600 });
    await rename(`${path}.tmp`, path);
    return path;
  }

  async #adm(
    vm: string,
    words: readonly string[],
    on = resourceName(vm),
    o: { readonly deadlineMs?: number; readonly file?: string } = {},
  ): Promise<void> {
    try {
      await this.#run('drbdadm', ['-c', o.file ?? this.#path(vm), ...words, on], {
        deadlineMs: o.deadlineMs ?? commandMs,
        finish: true,
        // Its host name may be another than the node's in the cluster.
        env: { __DRBD_NODE__: this.#o.node },
      });
    } catch (e) {
      throw withoutSecret(e);
    }
  }

  #path(vm: string): string {
    return `${this.#runDir}/${resourceName(vm)}.res`;
  }
}

/** Who the two are, and where. */
const sides = (config: string): string => (config.match(/^ +(on|address) .*$/gm) ?? []).join('\n');

/** drbdadm quotes the whole command that failed, with the secret in it. */
function withoutSecret(e: unknown): unknown {
  if (!(e instanceof FlotillaError) || !(e.cause instanceof Error)) return e;
  const said = e.cause.message
    .replace(/shared-secret[= ]\S+/g, 'shared-secret=…')
    .replace(/[0-9a-f]{32}/g, '…');
  return new FlotillaError(e.code, e.message, { hint: e.hint, cause: new Error(said) });
}
