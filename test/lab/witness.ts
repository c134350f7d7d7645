import { spawn, type ChildProcess } from 'node:child_process';
import { createInterface } from 'node:readline';
import { readFileSync } from 'node:fs';
import path from 'node:path';
import type { Lab } from './harness.js';

/** One thing that a witness guest said. */
export interface Word {
  /** Monotonic ms of the listener. */
  readonly atMs: number;
  readonly vm: string;
  /** The guest's kernel boot: two at the same time are two machines. */
  readonly boot: string;
  /** `found`: the count on its disk when it began; `count`: it has flushed this number; `bad`: memory or disk changed. */
  readonly kind: 'found' | 'count' | 'bad';
  readonly n: number;
}

const port = 8099;

/** Runs inside the guests' network; prints a JSON line per word. The process's own clock dates them. */
const listener = `
  const http = require('node:http');
  require('node:dgram').createSocket('udp4').on('message', (text) => {
    const [kind, vm, boot, n] = String(text).split(' ');
    console.log(JSON.stringify({ atMs: performance.now(), vm, boot, kind, n: Number(n) }));
  }).bind(${port});
  http.createServer((q, r) => {
    const u = new URL(q.url, 'http://x');
    const p = u.searchParams;
    console.log(JSON.stringify({ atMs: performance.now(), vm: p.get('vm'), boot: p.get('boot'), kind: u.pathname.slice(1), n: Number(p.get('n')) }));
    r.setHeader('connection', 'close');
    r.end('heard');
  }).listen(${port}, process.argv[1], () => console.log('"ready"'));
  setInterval(() => console.log(JSON.stringify(performance.now())), 50);
`;

/**
 * Listens to the witness guests of a lab from outside, where nodes cannot lie: which boot of which VM is alive, and
 * how far it has counted on its disk.
 */
export class WitnessEar {
  readonly words: Word[] = [];
  /** Names of VMs whose guests know but their id. */
  readonly names = new Map<string, string>();
  #child: ChildProcess | null = null;
  #nowMs = 0;
  readonly #lab: Lab;

  constructor(lab: Lab) {
    this.#lab = lab;
  }

  /** What the VM's user data must hold. */
  get userData(): string {
    return `#cloud-config\n# flotilla-drill: ${this.#lab.guestNet}.254:${port}\n`;
  }

  async start(): Promise<void> {
    // Straight into the fabric's network: it must not die with a lab command.
    const child = spawn(
      'nsenter',
      [`--net=/run/netns/${this.#lab.id}-fab`, process.execPath, '-e', listener, `${this.#lab.guestNet}.254`],
      { stdio: ['ignore', 'pipe', 'inherit'] },
    );
    this.#child = child;
    const lines = createInterface({ input: child.stdout });
    await new Promise<void>((resolve, reject) => {
      child.on('error', reject);
      child.on('exit', (code) => reject(new Error(`the witness's ear ended: ${code}`)));
      lines.on('line', (line) => {
        const said = JSON.parse(line) as Word | number | 'ready';
        if (said === 'ready') resolve();
        else if (typeof said === 'number') this.#nowMs = said;
        else this.words.push(said);
      });
    });
  }

  stop(): void {
    this.#child?.removeAllListeners('exit');
    this.#child?.kill();
  }

  /** The listener's clock now, as last heard: at most some 50 ms old. */
  get nowMs(): number {
    return this.#nowMs;
  }

  of(vm: string): Word[] {
    return this.words.filter((w) => (this.names.get(w.vm) ?? w.vm) === vm);
  }

  /** Boots of a VM in the order they first spoke. */
  boots(vm: string): string[] {
    return [...new Set(this.of(vm).map((w) => w.boot))];
  }

  /** The last word of a VM; undefined: it never spoke. */
  last(vm: string): Word | undefined {
    return this.of(vm).at(-1);
  }

  /**
   * What must never be seen: a boot that speaks after a later one began (two machines), a count that a later boot
   * did not find (a lost acknowledged write), one that goes back, or memory or disk that do not hold what was written.
   */
  violations(vm: string): string[] {
    const out: string[] = [];
    const done = new Set<string>();
    let boot = '';
    let highest = 0;
    for (const w of this.of(vm)) {
      if (w.boot !== boot) {
        if (done.has(w.boot)) out.push(`boot ${w.boot} speaks at ${w.atMs} after ${boot} had begun`);
        if (boot !== '') done.add(boot);
        boot = w.boot;
        if (w.kind === 'found' && w.n < highest)
          out.push(`boot ${w.boot} found ${w.n}, but ${highest} had been flushed`);
      }
      if (w.kind === 'bad') out.push(`boot ${w.boot} found its memory or disk changed at ${w.n}`);
      if (w.kind === 'count' && w.n < highest) out.push(`count ${w.n} of ${w.boot} after ${highest}`);
      if (w.kind === 'count') highest = Math.max(highest, w.n);
    }
    return out;
  }
}

/** The tiny guest as an image to upload. */
export const tinyImage = (): Buffer => readFileSync(path.resolve('build/images/tiny.qcow2'));

/** The guest that is one program, as an image to upload: boots in a moment, has no name. */
export const bareImage = (): Buffer => readFileSync(path.resolve('build/images/bare.img'));
