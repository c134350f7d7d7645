import { mkdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { Cgroup } from './cgroup.js';
import type { Freezer, Machine } from './env.js';

/** The slice of machines that begin with HA, below `machine.slice`: libvirt's partition `/machine/ha`. */
export const haSlice = 'machine-ha.slice';

/** The slice of twins of other nodes' machines. @see docs/lockstep.md */
export const twinSlice = 'machine-twin.slice';

/** How long one call waits for the kernel, ms. Measured: 2 ms, 122 ms at most with busy writers. */
const waitMs = 500;
const lookMs = 5;

/** `cgroup.kill` waits for nobody; what is left after so long hangs in the kernel, ms. */
const killWaitMs = 300;

interface Scope {
  readonly group: Cgroup;
  readonly vm: string;
  readonly inSlice: boolean;
  readonly twin: boolean;
}

/** VMs by the cgroup v2 freezer. A machine is a scope with a process whose command line has `-uuid`. */
export class CgroupFreezer implements Freezer {
  readonly #base: string;
  readonly #slice: Cgroup;
  /** A process keeps its command line, and libvirt numbers its scopes: scope and id together do not come again. */
  #known = new Map<string, string>();

  constructor(o: { base?: string } = {}) {
    this.#base = o.base ?? '/sys/fs/cgroup/machine.slice';
    this.#slice = new Cgroup(path.join(this.#base, haSlice));
  }

  async machines(): Promise<readonly Machine[]> {
    return this.#scopes().map(({ vm, inSlice, twin }) => ({ vm, inSlice, twin }));
  }

  async freeze(vms: readonly string[]): Promise<readonly string[]> {
    // First what needs no looking.
    mkdirSync(this.#slice.dir, { recursive: true });
    this.#slice.write('cgroup.freeze', '1');
    const outside = this.#scopes().filter((s) => !s.inSlice && vms.includes(s.vm));
    for (const s of outside) s.group.write('cgroup.freeze', '1');
    const moving = (): string[] => [
      ...(this.#slice.stopped && this.#slice.still ? [] : [haSlice]),
      ...outside.filter((s) => !s.group.still).map((s) => s.vm),
    ];
    await until(() => moving().length === 0, waitMs);
    return moving();
  }

  async thaw(hold: readonly string[]): Promise<void> {
    const scopes = this.#scopes();
    const held = scopes.filter((s) => hold.includes(s.vm));
    for (const s of held) s.group.write('cgroup.freeze', '1');
    const still = (): boolean => held.every((s) => s.group.still);
    if (!(await until(still, waitMs))) throw new Error('a machine that must stay frozen does not freeze');
    if (this.#slice.stopped) this.#slice.write('cgroup.freeze', '0');
    for (const s of scopes) {
      if (!hold.includes(s.vm) && s.group.stopped) s.group.write('cgroup.freeze', '0');
    }
  }

  async kill(vm: string): Promise<void> {
    const scopes = this.#scopes().filter((s) => s.vm === vm);
    for (const s of scopes) s.group.kill();
    await until(() => scopes.every((s) => !s.group.populated), killWaitMs);
  }

  #scopes(): Scope[] {
    const known = new Map<string, string>();
    const scopes: Scope[] = [];
    const twins = path.join(this.#base, twinSlice);
    const look = (group: Cgroup, inSlice: boolean, twin: boolean): void => {
      for (const child of group.children()) {
        if (child.dir.endsWith('.slice'))
          look(child, inSlice || child.dir === this.#slice.dir, twin || child.dir === twins);
        if (!child.dir.endsWith('.scope')) continue;
        const vm = this.#vmOf(child, known);
        if (vm !== null) scopes.push({ group: child, vm, inSlice, twin });
      }
    };
    look(new Cgroup(this.#base), false, false);
    this.#known = known;
    return scopes;
  }

  #vmOf(scope: Cgroup, known: Map<string, string>): string | null {
    for (const pid of scope.ids('cgroup.procs')) {
      const key = `${scope.dir} ${pid}`;
      // Only a found uuid is remembered: between fork and exec a process is still libvirt's.
      const vm = this.#known.get(key) ?? uuidOf(pid);
      if (vm === null) continue;
      known.set(key, vm);
      return vm;
    }
    return null;
  }
}

function uuidOf(pid: number): string | null {
  try {
    const words = readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0');
    const at = words.indexOf('-uuid');
    return at < 0 ? null : (words[at + 1]?.toLowerCase() ?? null);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'ENOENT' || code === 'ESRCH') return null; // it has ended
    throw error;
  }
}

async function until(holds: () => boolean, limitMs: number): Promise<boolean> {
  const endMs = performance.now() + limitMs;
  for (;;) {
    if (holds()) return true;
    if (performance.now() >= endMs) return false;
    await sleep(lookMs);
  }
}
