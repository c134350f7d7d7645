import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { Readable } from 'node:stream';
import { makeCa, makeCsr, signNode } from '../../../agent/pki/certificates.js';
import { newPrivateKey } from '../../../agent/pki/keys.js';
import type { TlsMaterial } from '../../../agent/pki/tls.js';
import { runCli } from '../../../controller/cli/program.js';
import { ControllerServer } from '../../../controller/server.js';
import { rig, type Rig } from './rig.js';

export interface Ran {
  readonly code: number;
  readonly out: string;
  readonly err: string;
}

/** A controller over real TLS, and the command line logged in to it. */
export async function lab(makeRig: () => Promise<Rig> = rig): Promise<{
  r: Rig;
  dir: string;
  url: string;
  env: Record<string, string>;
  run(...args: string[]): Promise<Ran>;
  /** One that goes on until the signal. */
  runUntil(signal: AbortSignal, ...args: string[]): { out(): string; done: Promise<Ran> };
  /** What the next command reads; `tty`: as somebody at a terminal would type it. */
  stdin(text: string, tty?: boolean): void;
  /** The controller shows another certificate. */
  serve(tls: TlsMaterial): void;
  stop(): Promise<void>;
}> {
  const dir = await mkdtemp(path.join(tmpdir(), 'flotilla-cli-'));
  const file = (name: string) => path.join(dir, name);
  await writeFile(file('ca.key'), newPrivateKey(), { mode: 0o600 });
  await writeFile(file('node.key'), newPrivateKey(), { mode: 0o600 });
  const wallMs = Date.now();
  const ca = await makeCa({
    clusterId: '00000000-0000-4000-8000-0000000000c1',
    keyFile: file('ca.key'),
    wallMs,
  });
  const csr = await makeCsr({ keyFile: file('node.key'), commonName: 'n1' });
  const cert = await signNode(
    { cert: ca, keyFile: file('ca.key') },
    csr,
    { node: 'n1', addresses: ['127.0.0.1'] },
    wallMs,
  );
  const key = await readFile(file('node.key'), 'utf8');
  const r = await makeRig();
  const server = new ControllerServer({
    app: r.app,
    consoles: r.consoles,
    host: '127.0.0.1',
    port: 0,
    tls: { ca, cert, key },
  });
  await server.start();
  await writeFile(file('ca.crt'), ca);
  await writeFile(file('token'), `${r.token}\n`, { mode: 0o600 });
  const url = `https://127.0.0.1:${server.port}`;
  const env = {
    PATH: process.env['PATH'] ?? '',
    HOME: dir,
    FLOTILLA_SERVER: url,
    FLOTILLA_TOKEN_FILE: file('token'),
    FLOTILLA_CA: file('ca.crt'),
  };
  let input = '';
  let tty = false;
  const runUntil = (signal: AbortSignal, ...args: string[]): { out(): string; done: Promise<Ran> } => {
    let out = '';
    let err = '';
    const done = runCli(args, {
      env,
      out: (s) => (out += `${s}\n`),
      err: (s) => (err += s),
      write: (bytes) => (out += Buffer.from(bytes).toString()),
      width: null,
      tty,
      stdin: Readable.from([input]),
      signal,
    });
    return { out: () => out, done: done.then((code) => ({ code, out, err })) };
  };
  return {
    r,
    dir,
    url,
    env,
    stdin: (text, terminal = false) => {
      input = text;
      tty = terminal;
    },
    serve: (tls) => server.setTls(tls),
    run: (...args) => runUntil(new AbortController().signal, ...args).done,
    runUntil,
    async stop() {
      r.stop();
      await server.stop();
      await rm(dir, { recursive: true, force: true });
    },
  };
}
