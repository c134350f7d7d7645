import { once } from 'node:events';
import { readFile } from 'node:fs/promises';
import { WebSocket } from 'ws';
import t from 'tap';
import { apiRoot, consoleClosed, consoleProtocols, restStreams } from '../../../core/wire/rest.js';
import { waitFor } from '../../lab/harness.js';
import { lab } from './cli-rig.js';
import { armed, haRig, made } from './ha-rig.js';
import { GiB } from './rig.js';

/** Consoles at a real controller over TLS; the node's end of each is in the test's hand. */
const l = await lab(haRig);
t.teardown(() => l.stop());
const { r } = l;
const ca = await readFile(`${l.dir}/ca.crt`, 'utf8');
await made(r, {
  name: 'web',
  node: 'n1',
  disks: [{ name: 'root', sizeBytes: GiB, pool: 'shared' }],
  ha: { enabled: true },
});
const web = await armed(r, 'web', 'n2');
await made(r, { name: 'off', node: 'n1' });

async function ticket(kind = 'serial', history = 0): Promise<string> {
  const a = await r.call('POST', '/api/v1/vms/web/console', { kind, history });
  if (a.status !== 200) throw new Error(`ticket: ${a.status} ${JSON.stringify(a.body)}`);
  return (a.body as { ticket: string }).ticket;
}
class Seen {
  text = '';
  code = 0;
  refused = '';
  opened = false;
  readonly ws: WebSocket;
  constructor(protocols: string[], o: { path?: string; origin?: string } = {}) {
    const url = `${l.url.replace('https', 'wss')}${o.path ?? apiRoot + restStreams.console}`;
    this.ws = new WebSocket(url, protocols, { ca, ...(o.origin === undefined ? {} : { origin: o.origin }) });
    this.ws.on('open', () => (this.opened = true));
    this.ws.on('message', (d: Buffer) => (this.text += d.toString()));
    this.ws.on('error', (e) => (this.refused = e.message));
    this.ws.on('close', (code) => (this.code = code));
  }
}
const until = (what: string, is: () => boolean): Promise<unknown> => waitFor(what, async () => is());
const machine = () => {
  const last = r.machines.dialled.at(-1);
  if (last === undefined) throw new Error('nothing was dialled');
  return last;
};

await t.test('a ticket opens one console, once', async (t) => {
  const given = await ticket('serial', 99);
  const s = new Seen(consoleProtocols(given));
  await until('the node is asked', () => r.machines.dialled.length === 1);
  t.equal(machine().at, `n1 /v1/consoles/${web.id}/serial?history=99`);
  machine().end.write('login: ');
  await until('its bytes come', () => s.text === 'login: ');
  t.equal(s.ws.protocol, 'flotilla-console-v1', 'the ticket is not given back');
  s.ws.send(Buffer.from('root\r'));
  const [typed] = (await once(machine().end, 'data')) as [Buffer];
  t.equal(typed.toString(), 'root\r');
  const twice = new Seen(consoleProtocols(given));
  await until('a second time it is refused', () => twice.refused !== '');
  t.match(twice.refused, /403/);
  machine().end.end();
  await until('the machine went off', () => s.code !== 0);
  t.equal(s.code, consoleClosed.ended);
});

await t.test('without a ticket, with a made-up one, from another page, at another address: no', async (t) => {
  const before = r.machines.dialled.length;
  const tries = [
    new Seen([]),
    new Seen(consoleProtocols('0'.repeat(64))),
    new Seen(consoleProtocols(await ticket()), { origin: 'https://evil.example' }),
    new Seen(consoleProtocols(await ticket()), { path: '/api/v1/other' }),
    new Seen([`ticket.${await ticket()}`]),
  ];
  for (const s of tries) {
    await until('refused', () => s.refused !== '');
    t.match(s.refused, /403/);
  }
  t.equal(r.machines.dialled.length, before);
  const plain = await r.call('GET', apiRoot + restStreams.console);
  t.match(plain, { status: 400, body: { code: 'bad-input', hint: /ticket/ } });
});

await t.test('a VM that is off has none; the answer says why', async (t) => {
  const a = await r.call('POST', '/api/v1/vms/off/console', { kind: 'vnc' });
  t.match(a, { status: 409, body: { code: 'wrong-state', message: /stopped/ } });
  t.match(await r.call('POST', '/api/v1/vms/web/console', { kind: 'x' }), { status: 400 });
  t.match(await r.call('POST', '/api/v1/vms/nobody/console', { kind: 'vnc' }), { status: 404 });
});

const moveTo = async (node: string): Promise<void> => {
  const { own } = web;
  r.memory.poke(
    `/flotilla/vm/${web.id}/own`,
    JSON.stringify({ ...own, state: 'running', owner: node, standby: null }),
  );
  await r.view.ledger.refresh();
};

await t.test(
  'another owner ends it, and the next ticket leads there; an owner out of reach is told',
  async (t) => {
    const s = new Seen(consoleProtocols(await ticket('vnc')));
    await until('open', () => r.machines.dialled.length === 2);
    await moveTo('n2');
    await until('closed', () => s.code !== 0);
    t.equal(s.code, consoleClosed.moved);
    const next = new Seen(consoleProtocols(await ticket('vnc')));
    await until('dialled there', () => machine().at.startsWith('n2 '));
    next.ws.close();
    r.machines.silent.add('n2');
    const last = new Seen(consoleProtocols(await ticket('vnc')));
    await until('closed', () => last.code !== 0);
    t.equal(last.code, consoleClosed.unreachable);
    r.machines.silent.clear();
  },
);

await t.test('flotilla console: what the machine says, what is typed, on through a move', async (t) => {
  await moveTo('n1');
  const before = r.machines.dialled.length;
  l.stdin('ls\r');
  const stop = new AbortController();
  const ran = l.runUntil(stop.signal, 'console', 'web');
  await until('dialled', () => r.machines.dialled.length === before + 1);
  t.match(machine().at, /^n1 .*history=65536/);
  const [typed] = (await once(machine().end, 'data')) as [Buffer];
  t.equal(typed.toString(), 'ls\r');
  machine().end.write('one ');
  await moveTo('n2');
  await until('dialled anew', () => r.machines.dialled.length === before + 2);
  t.match(machine().at, /^n2 /);
  machine().end.write('two ');
  await until('it came', () => ran.out().includes('two '));
  stop.abort();
  const { code, out, err } = await ran.done;
  t.equal(code, 0);
  t.equal(out, 'one two ');
  t.match(err, /on n1; Ctrl-\][^]*on n2/);
  t.match(await l.run('console', 'off'), { code: 4, err: /no console: it is stopped/ });
});
