import { once } from 'node:events';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import type { Duplex } from 'node:stream';
import t from 'tap';
import { ConsoleDoor } from '../../../../agent/consoles/door.js';
import { overlap } from '../../../../agent/consoles/serial.js';
import { createAgentHttp } from '../../../../agent/http/server.js';
import { HttpsConsoles } from '../../../../controller/console-dial.js';
import { FlotillaError } from '../../../../core/domain/error.js';
import { agentConsolePath, type ConsoleKind } from '../../../../core/wire/consoles.js';
import { waitFor } from '../../../lab/harness.js';
import { TestCa } from '../radio/test-pki.js';

/** The agent's server with its door for consoles, the controller's dial, and QEMU's sockets played by this test. */
const dir = await mkdtemp(path.join(tmpdir(), 'fl-con-'));
const ca = await new TestCa(dir, 'ca').make();
const stranger = await new TestCa(dir, 'other').make();
const tls = await ca.certificate('n1');
const removed = new Set<string>();
let refused = 0;
const door = new ConsoleDoor({
  paths: (vm) => ({
    serial: path.join(dir, `${vm.slice(-2)}.serial`),
    vnc: path.join(dir, `${vm.slice(-2)}.vnc`),
    serialLog: path.join(dir, `${vm.slice(-2)}.log`),
  }),
  isMember: (peer) => !removed.has(peer.node),
  onRefused: () => (refused += 1),
});
const quiet = { info: () => undefined, warn: () => undefined, error: () => undefined };
const http = createAgentHttp({
  host: '127.0.0.1',
  port: 0,
  node: 'n1',
  tls: () => tls,
  verifyToken: () => ({ ok: false, code: 'token-unknown' }),
  health: () => ({ ok: true, node: 'n1', version: '0', fingerprint: '' }),
  page: () => '',
  metrics: () => '',
  mounts: [],
  upgrade: (req, socket, head) => door.upgrade(req, socket, head),
  clock: { nowMs: () => 0 },
  log: quiet,
});
await http.start();

class Machine {
  readonly socks: Socket[] = [];
  said = '';
  readonly server: Server;
  constructor(file: string) {
    this.server = createServer((s) => {
      this.socks.push(s);
      s.on('error', () => undefined);
      s.on('data', (d: Buffer) => (this.said += d.toString()));
    });
    this.server.listen(file);
  }
  say(text: string): void {
    for (const s of this.socks) if (!s.destroyed) s.write(text);
  }
}
const machines: Machine[] = [];
async function machine(no: string, kind: ConsoleKind): Promise<Machine> {
  const m = new Machine(path.join(dir, `${no}.${kind}`));
  machines.push(m);
  await once(m.server, 'listening');
  return m;
}
t.teardown(async () => {
  door.stop();
  await http.stop();
  for (const m of machines) {
    for (const s of m.socks) s.destroy();
    m.server.close();
  }
  await rm(dir, { recursive: true, force: true });
});

const vm = (no: string): string => `00000000-0000-4000-8000-0000000000${no}`;
const dial = (no: string, kind: ConsoleKind, history = 0, from = tls): Promise<Duplex> =>
  new HttpsConsoles({ tls: () => from, port: http.port }).dial(
    // The test's certificates say localhost, not n1.
    { id: 'localhost', address: '127.0.0.1' },
    agentConsolePath(vm(no), kind, history),
    new AbortController().signal,
  );
class Viewer {
  text = '';
  closed = false;
  readonly end: Duplex;
  constructor(end: Duplex) {
    this.end = end;
    end.on('error', () => undefined);
    end.on('data', (d: Buffer) => (this.text += d.toString()));
    end.on('close', () => (this.closed = true));
  }
}
const until = (what: string, is: () => boolean): Promise<unknown> => waitFor(what, async () => is());
const codeOf = (p: Promise<unknown>): Promise<string> =>
  p.then(
    () => 'opened',
    (e: unknown) => (e instanceof FlotillaError ? e.code : String(e)),
  );

await t.test('bytes both ways; all who look see the same, by one connection to the machine', async (t) => {
  const m = await machine('01', 'serial');
  await writeFile(path.join(dir, '01.log'), 'booting\r\nlogin: ');
  const one = new Viewer(await dial('01', 'serial', 7));
  await until('the last of what it said', () => one.text === 'login: ');
  m.say('A');
  await until('the first sees it', () => one.text === 'login: A');
  const two = new Viewer(await dial('01', 'serial'));
  m.say('B');
  await until('both see it', () => one.text.endsWith('AB') && two.text === 'B');
  two.end.write('typed');
  await until('the machine has it', () => m.said === 'typed');
  t.equal(m.socks.length, 1);
  one.end.destroy();
  two.end.destroy();
  await until('nobody looks: it is let go', () => m.socks[0]?.destroyed === true);
  const three = new Viewer(await dial('01', 'serial'));
  m.say('C');
  await until('a new look is a new connection', () => three.text === 'C' && m.socks.length === 2);
  m.socks[1]?.end();
  await until('the end of the machine is the end of the look', () => three.closed);
});

await t.test('what comes while the log is read is shown once', (t) => {
  t.equal(overlap(Buffer.from('..login: '), Buffer.from('login: root')), 7);
  t.equal(overlap(Buffer.from('abc'), Buffer.from('xyz')), 0);
  t.equal(overlap(Buffer.from(''), Buffer.from('x')), 0);
  t.end();
});

await t.test('a screen is a connection of its own for each viewer', async (t) => {
  const m = await machine('02', 'vnc');
  const [one, two] = [new Viewer(await dial('02', 'vnc')), new Viewer(await dial('02', 'vnc'))];
  await until('two connections', () => m.socks.length === 2);
  m.say('RFB 003.008\n');
  await until('both have the greeting', () => one.text === two.text && one.text === 'RFB 003.008\n');
  one.end.destroy();
  await until('one is gone', () => m.socks.filter((s) => s.destroyed).length === 1);
  two.end.destroy();
  t.pass();
});

await t.test('no machine, no such path, a removed node, another CA', async (t) => {
  t.equal(await codeOf(dial('03', 'serial')), 'wrong-state');
  t.equal(await codeOf(dial('03', 'vnc')), 'wrong-state');
  t.equal(await codeOf(dial('03', 'parallel' as ConsoleKind)), 'not-found');
  t.equal(await codeOf(dial('0x', 'serial')), 'not-found');
  await machine('04', 'serial');
  const before = refused;
  t.equal(
    await codeOf(dial('04', 'serial', 0, { ...(await stranger.certificate('n1')), ca: tls.ca })),
    'forbidden',
  );
  removed.add('n1');
  t.equal(await codeOf(dial('04', 'serial')), 'forbidden');
  removed.clear();
  t.equal(refused, before + 2);
  const free = await dial('04', 'serial');
  free.destroy();
});
