import { spawn } from 'node:child_process';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { createServer } from 'node:net';
import path from 'node:path';
import { pathToFileURL } from 'node:url';
import { setTimeout as sleep } from 'node:timers/promises';
import type { TimingProfile } from '../../core/domain/timing.js';

/** What a program said, and how it ended. */
export interface Outcome {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs a program to its end. The exit code is for the caller to judge. */
export async function run(
  file: string,
  args: readonly string[],
  options: { readonly input?: string; readonly env?: NodeJS.ProcessEnv } = {},
): Promise<Outcome> {
  const child = spawn(file, args, { env: { ...process.env, ...options.env } });
  let stdout = '';
  let stderr = '';
  child.stdout.setEncoding('utf8').on('data', (text: string) => (stdout += text));
  child.stderr.setEncoding('utf8').on('data', (text: string) => (stderr += text));
  child.stdin.on('error', () => undefined);
  child.stdin.end(options.input ?? '');
  const code = await new Promise<number>((resolve, reject) => {
    child.on('error', reject);
    child.on('close', (exit) => resolve(exit ?? 1));
  });
  return { code, stdout, stderr };
}

/** Every limit of {@link waitFor} is so many times longer: machines emulated on few cores are that much slower. */
const patience = { lab: 1, metal: 8 } as const;
let patient = 1;

/** A limit, ms, for the kind of lab that this process has. */
export const patiently = (limitMs: number): number => limitMs * patient;

/**
 * Looks until something is there. Tests wait for conditions, never for time to pass: how fast a busy machine is
 * says nothing about whether the program is right.
 *
 * @param what - what is waited for, in the words of the failure
 * @param look - undefined, null and false mean "not yet"; so does an error, which the failure then quotes
 */
export async function waitFor<T>(
  what: string,
  look: () => Promise<T> | T,
  { limitMs = 60_000, everyMs = 200 }: { readonly limitMs?: number; readonly everyMs?: number } = {},
): Promise<Exclude<NonNullable<T>, false>> {
  const end = Date.now() + patiently(limitMs);
  for (;;) {
    let error: unknown;
    try {
      const found = await look();
      if (found !== undefined && found !== null && found !== false)
        return found as Exclude<NonNullable<T>, false>;
    } catch (caught) {
      error = caught;
    }
    if (Date.now() >= end)
      throw new Error(`${what}: not within ${patiently(limitMs) / 1000} s`, { cause: error });
    await sleep(everyMs);
  }
}

/** A port of 127.0.0.1 that nobody has now. */
export async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const address = server.address();
  await new Promise((resolve) => server.close(resolve));
  if (address === null || typeof address === 'string') throw new Error('no port');
  return address.port;
}

/** What {@link Lab.traces} finds after `down`. */
export const noTraces = { namespaces: [], mounts: [], loops: [], processes: [], cgroups: [], files: [] };

export interface LabOptions {
  /** Owns the cgroup and network namespaces of this name: one per test file that runs beside others. */
  readonly id: string;
  /** First three numbers of the nodes' network. Labs do not see each other, so two may have the same. */
  readonly net?: string;
  readonly guestNet?: string;
  /** Of a lab: nodes have a storage network, too. Machines have one always. */
  readonly storageNet?: string;
  /** Timing profile of the nodes where `LAB_TIMING` does not say; without it `lab`. */
  readonly timing?: Timing;
  /** Nodes in containers (`scripts/lab`), or emulated machines (`scripts/metal`). */
  readonly kind?: Kind;
}

type Kind = 'lab' | 'metal';

type Timing = TimingProfile['name'];

/** A rack of nodes on this machine, as `scripts/lab` or `scripts/metal` makes it. */
export class Lab {
  readonly kind: Kind;
  readonly id: string;
  readonly net: string;
  readonly guestNet: string;
  readonly timing: Timing;
  /** Everything this lab keeps, among it each node's console.log. */
  readonly dir: string;
  /** The directory that all nodes see as /srv/shared. */
  readonly share: string;

  readonly #storage: { readonly LAB_STORAGE_NET?: string };
  /** What `scripts/lab` does to nodes, without a program of its own each of the hundreds of times. */
  #rack: Promise<Rack> | null = null;

  constructor(o: LabOptions) {
    this.#storage = o.storageNet === undefined ? {} : { LAB_STORAGE_NET: o.storageNet };
    this.kind = o.kind ?? 'lab';
    patient = patience[this.kind];
    this.id = o.id;
    this.net = o.net ?? '10.79.0';
    this.guestNet = o.guestNet ?? '10.79.100';
    this.timing = (process.env['LAB_TIMING'] as Timing | undefined) ?? o.timing ?? 'lab';
    this.dir = path.resolve('build', this.kind, o.id);
    this.share = path.join(this.dir, 'share');
  }

  #nodes(): Promise<Rack> {
    return (this.#rack ??= rackOf({ ...process.env, ...this.#env() }, this.kind));
  }

  #env(): Record<string, string> {
    return {
      LAB_ID: this.id,
      LAB_NET: this.net,
      LAB_GUEST_NET: this.guestNet,
      ...this.#storage,
      LAB_TIMING: this.timing,
    };
  }

  /** `scripts/lab VERB ARGS` or the same of `scripts/metal`, whatever it says. */
  async call(...args: readonly string[]): Promise<Outcome> {
    return run(process.execPath, [path.resolve(`scripts/${this.kind}.mjs`), ...args], { env: this.#env() });
  }

  /** The same, where anything but success is a failure of the test. @returns what it printed */
  async must(...args: readonly string[]): Promise<string> {
    const { code, stdout, stderr } = await this.call(...args);
    if (code !== 0) throw new Error(`${this.kind} ${args.join(' ')}: exit ${code}\n${stderr}${stdout}`);
    return stdout;
  }

  /**
   * Boots n1 to nN and returns when systemd in each of them has started everything.
   *
   * @param contained - with machines: so many more nodes in containers
   */
  async up(nodes: number, contained = 0): Promise<void> {
    await this.must('up', String(nodes), ...(contained > 0 ? [String(contained)] : []));
  }

  /** Ends everything; right after any half-done `up`, and twice. */
  async down(): Promise<void> {
    await this.must('down');
  }

  /** Names of the nodes that are on. */
  async nodes(): Promise<string[]> {
    return (await this.#nodes()).running();
  }

  address(node: string): string {
    return `${this.net}.${node.slice(1)}`;
  }

  /** Runs a program in a node. */
  async exec(node: string, ...command: readonly string[]): Promise<Outcome> {
    let words: readonly [string, readonly string[]];
    try {
      words = (await this.#nodes()).inside(node, command);
    } catch (e) {
      return { code: 1, stdout: '', stderr: `lab: ${e instanceof Error ? e.message : String(e)}\n` };
    }
    return run(...words);
  }

  /** Runs a shell script in a node; anything but success is a failure. @returns what it printed, trimmed */
  async sh(node: string, script: string): Promise<string> {
    const { code, stdout, stderr } = await this.exec(node, 'sh', '-euc', script);
    if (code !== 0) throw new Error(`${node}: ${script}: exit ${code}\n${stderr}${stdout}`);
    return stdout.trim();
  }

  async boot(node: string): Promise<void> {
    await this.must('boot', node);
  }

  /** Cuts the power. */
  async kill(node: string): Promise<void> {
    await (await this.#nodes()).power(node);
  }

  /** @param words - a node, or two; then a network other than management; then `one-way`: only what the first sends is lost */
  async cut(...words: readonly string[]): Promise<void> {
    await this.must('cut', ...words);
  }

  /** @param words - as for `cut`; none: everything */
  async heal(...words: readonly string[]): Promise<void> {
    await this.must('heal', ...words);
  }

  async freeze(node: string): Promise<void> {
    await this.must('freeze', node);
  }

  async thaw(node: string): Promise<void> {
    await this.must('thaw', node);
  }

  /** Runs a program on the fabric, where nodes and guests have their addresses. */
  async fabric(...command: readonly string[]): Promise<Outcome> {
    return this.call('fab', ...command);
  }

  /** @param target - `n1:8443`, or an address in the lab @returns a port of 127.0.0.1 that leads there */
  async forward(target: string): Promise<number> {
    const port = await freePort();
    await this.must('forward', String(port), target);
    return port;
  }

  /** Everything on this machine that is of this lab, by kind. */
  async traces(): Promise<Record<keyof typeof noTraces, string[]>> {
    const lines = (text: string) => text.split('\n').filter((line) => line !== '');
    const having = (text: string, word: string) => lines(text).filter((line) => line.includes(word));
    const loops = readdirSync('/sys/block').filter((name) => name.startsWith('loop'));
    const mounts = readFileSync('/proc/mounts', 'utf8');
    const cgroups = lines(mounts)
      .map((line) => line.split(' '))
      .filter(([, , type]) => type === 'cgroup2')
      .map(([, where]) => path.join(where ?? '/', this.id));
    return {
      namespaces: having((await run('ip', ['netns', 'list'])).stdout, `${this.id}-`),
      mounts: having(mounts, this.dir),
      loops: loops
        .map((name) => textOf(`/sys/block/${name}/loop/backing_file`))
        .filter((file) => file.startsWith(this.dir)),
      processes: readdirSync('/proc')
        .filter((name) => /^\d+$/.test(name))
        .map((pid) => textOf(`/proc/${pid}/cmdline`).replaceAll('\0', ' '))
        .filter((command) => command.includes(this.dir)),
      cgroups: cgroups.filter((dir) => existsSync(dir)),
      files: existsSync(this.dir) ? [this.dir] : [],
    };
  }
}

/** Of `scripts/lib/lab/rack.mjs`, which needs no build. */
interface Rack {
  /** Names of the nodes that are on. */
  readonly running: () => string[];
  /** Cuts a node's power. @returns when that was, ms of the wall clock; null: it was off */
  readonly power: (node: string) => Promise<number | null>;
  /** A program and its arguments that run a command in a node. @throws the node is off */
  readonly inside: (node: string, command: readonly string[]) => readonly [string, readonly string[]];
}

async function rackOf(env: NodeJS.ProcessEnv, kind: Kind): Promise<Rack> {
  const file = pathToFileURL(path.resolve('scripts/lib/lab/rack.mjs')).href;
  const part = (await import(file)) as {
    rackOf: (env: NodeJS.ProcessEnv, kind: Kind) => { readonly rack: Rack };
  };
  return part.rackOf(env, kind).rack;
}

/** A file of /proc or /sys; empty when what it is about has just ended. */
function textOf(file: string): string {
  try {
    return readFileSync(file, 'latin1').trim();
  } catch {
    return '';
  }
}
