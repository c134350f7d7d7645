import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { mkdir, writeFile } from 'node:fs/promises';
import { createServer, connect } from 'node:net';
import { resolve } from 'node:path';
import { brokerAcl, brokerConfig } from '../../../../agent/radio/broker-config.js';
import type { TlsFiles } from '../../../../agent/radio/link.js';

/** The appliance's mosquitto where its root has been built, else the machine's. */
export function mosquittoCommand(): string[] {
  const root = resolve('build/root');
  if (existsSync(`${root}/usr/sbin/mosquitto`)) {
    const lib = `${root}/usr/lib/x86_64-linux-gnu`;
    return [`${lib}/ld-linux-x86-64.so.2`, '--library-path', lib, `${root}/usr/sbin/mosquitto`];
  }
  if (existsSync('/usr/sbin/mosquitto')) return ['/usr/sbin/mosquitto'];
  throw new Error('no mosquitto: run "images/build root" or install the Debian package mosquitto');
}

/** Waits until `check` holds. @throws after `limitMs`, naming what was waited for */
export async function until(
  what: string,
  check: () => boolean | Promise<boolean>,
  limitMs = 20_000,
): Promise<void> {
  const end = performance.now() + limitMs;
  while (!(await check())) {
    if (performance.now() > end) throw new Error(`waited ${limitMs} ms for: ${what}`);
    await new Promise((r) => setTimeout(r, 20));
  }
}

export async function freePort(): Promise<number> {
  const s = createServer().listen(0, '127.0.0.1');
  await once(s, 'listening');
  const { port } = s.address() as { port: number };
  s.close();
  await once(s, 'close');
  return port;
}

/** A real mosquitto with the shipped configuration, on a port of its own. */
export class Broker {
  readonly dir: string;
  readonly port: number;
  readonly address: string;
  readonly tls: TlsFiles;
  #process: ChildProcess | null = null;
  log = '';

  constructor(o: { dir: string; port: number; tls: TlsFiles; address?: string }) {
    this.dir = o.dir;
    this.port = o.port;
    this.tls = o.tls;
    this.address = o.address ?? '127.0.0.1';
  }

  get logFile(): string {
    return `${this.dir}/errors.log`;
  }

  async start(): Promise<void> {
    await mkdir(this.dir, { recursive: true });
    const { ca, cert, key, crl } = this.tls;
    const user = process.getuid?.() === 0 ? 'user root\n' : '';
    await writeFile(`${this.dir}/ca.crt`, ca);
    if (crl !== undefined) await writeFile(`${this.dir}/ca.crl`, crl.join(''));
    await writeFile(`${this.dir}/node.crt`, cert);
    await writeFile(`${this.dir}/node.key`, key);
    await writeFile(`${this.dir}/acl`, brokerAcl, { mode: 0o600 });
    const config = brokerConfig({
      dir: this.dir,
      port: this.port,
      address: this.address,
      logFile: this.logFile,
      crl: crl !== undefined,
    });
    await writeFile(`${this.dir}/mosquitto.conf`, config + user);
    const [program, ...args] = [...mosquittoCommand(), '-c', `${this.dir}/mosquitto.conf`];
    const p = spawn(program, args, { stdio: ['ignore', 'pipe', 'pipe'] });
    this.#process = p;
    // Also where the test itself dies.
    process.once('exit', () => p.kill('SIGKILL'));
    for (const s of [p.stdout, p.stderr]) s.on('data', (d: Buffer) => (this.log += d.toString()));
    await until(`mosquitto on ${this.port}: ${this.log}`, () => answers(this.port, this.address));
  }

  /** As `systemctl reload`. */
  reload(): void {
    this.#process?.kill('SIGHUP');
  }

  async stop(signal: NodeJS.Signals = 'SIGTERM'): Promise<void> {
    const p = this.#process;
    this.#process = null;
    if (p === null || p.exitCode !== null || p.signalCode !== null) return;
    const gone = once(p, 'exit');
    p.kill(signal);
    await gone;
  }
}

async function answers(port: number, address: string): Promise<boolean> {
  const s = connect(port, address);
  try {
    return await new Promise<boolean>((yes) => {
      s.on('connect', () => yes(true));
      s.on('error', () => yes(false));
    });
  } finally {
    s.destroy();
  }
}
