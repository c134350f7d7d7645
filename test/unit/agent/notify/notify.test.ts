import { once } from 'node:events';
import { createServer as createHttp } from 'node:http';
import { createServer, type AddressInfo, type Server } from 'node:net';
import t from 'tap';
import { NotifyDesk } from '../../../../agent/notify/desk.js';
import { send, type Message } from '../../../../agent/notify/send.js';
import type { NotifyView } from '../../../../core/decide/notify.js';
import type { Mail, NotifySettings } from '../../../../core/domain/notify.js';
import { leadKey, notifyKey, notifyStateKey, notifyTestKey } from '../../../../core/wire/ledger-keys.js';
import { rig, nodeRecord } from '../../controller/rig.js';

const secret = 'pass word secret';
const mailTo = (port: number): Mail => ({
  host: '127.0.0.1',
  port,
  security: 'none',
  user: 'fleet',
  password: secret,
  from: 'fleet@example.org',
  to: ['ops@example.org', 'boss@example.org'],
});
const message: Message = {
  subject: 'a\nBcc: x@example.org',
  text: 'line\n.\nQUIT\n',
  data: { cluster: 'c' },
};

/** As little of SMTP as a client needs. @param refuse - what the login is answered */
async function smtp(refuse: string | null): Promise<{ server: Server; port: number; heard: string[] }> {
  const heard: string[] = [];
  const server = createServer((s) => {
    let text = '';
    let data = false;
    s.write('220 here\r\n');
    s.on('error', () => undefined);
    s.on('data', (d) => {
      text += d.toString();
      for (let end = text.indexOf('\r\n'); end >= 0; end = text.indexOf('\r\n')) {
        const line = text.slice(0, end);
        text = text.slice(end + 2);
        heard.push(line);
        if (data) {
          if (line !== '.') continue;
          data = false;
          s.write('250 kept\r\n');
        } else if (line.startsWith('EHLO')) s.write('250-here\r\n250 AUTH PLAIN\r\n');
        else if (line.startsWith('AUTH')) s.write(`${refuse ?? '235 in'}\r\n`);
        else if (line === 'DATA') {
          data = true;
          s.write('354 go\r\n');
        } else if (line === 'QUIT') s.end('221 bye\r\n');
        else s.write('250 ok\r\n');
      }
    });
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return { server, port: (server.address() as AddressInfo).port, heard };
}

await t.test('mail goes out once for all, and its text cannot say anything to the server', async (t) => {
  const { server, port, heard } = await smtp(null);
  t.teardown(() => server.close());
  t.same(await send({ mail: mailTo(port), webhook: null }, message), {});
  t.equal(heard.filter((l) => l === 'DATA').length, 1);
  t.same(
    heard.filter((l) => l.startsWith('RCPT')),
    ['RCPT TO:<ops@example.org>', 'RCPT TO:<boss@example.org>'],
    'and to nobody whom a text names',
  );
  t.ok(heard.includes('..'), 'a lonely dot does not end it');
});

await t.test('what goes wrong is told without secrets', async (t) => {
  const { server, port } = await smtp(`535 no: ${secret}`);
  t.teardown(() => server.close());
  const faults = await send({ mail: mailTo(port), webhook: 'http://127.0.0.1:1/hook/T0P/secret' }, message);
  t.match(faults.mail, /^mail by 127.0.0.1: .*535/);
  t.match(faults.webhook, /^webhook at 127.0.0.1:1: /);
  t.notMatch(JSON.stringify(faults), /pass word|T0P/);
  const tls = await send({ mail: { ...mailTo(port), security: 'starttls' }, webhook: null }, message);
  t.match(tls.mail, /STARTTLS|TLS/i, 'nothing is sent in the clear where it should not be');
});

await t.test('a webhook gets JSON, and leads nowhere else', async (t) => {
  const got: { url: string; body: unknown }[] = [];
  const server = createHttp((req, res) => {
    let text = '';
    req.on('data', (d: Buffer) => (text += d.toString()));
    req.on('end', () => {
      got.push({ url: req.url ?? '', body: JSON.parse(text) });
      if (req.url === '/away') res.writeHead(302, { location: '/in' }).end();
      else res.writeHead(req.url === '/in' ? 200 : 500).end();
    });
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  t.teardown(() => server.close());
  const at = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  t.same(await send({ mail: null, webhook: `${at}/in` }, message), {});
  t.match(got[0]?.body, { cluster: 'c', subject: message.subject, text: /line/ });
  t.match((await send({ mail: null, webhook: `${at}/bad` }, message)).webhook, /status 500/);
  t.ok((await send({ mail: null, webhook: `${at}/away` }, message)).webhook);
  t.equal(got.length, 3);
});

await t.test(
  'the leader tells once; a failing way is tried again alone; the next leader goes on',
  async (t) => {
    const r = await rig();
    t.teardown(() => r.stop());
    const settings: NotifySettings = { mail: mailTo(25), webhook: 'https://chat.example.org/x' };
    r.memory.poke(notifyKey, JSON.stringify(settings));
    r.memory.poke(leadKey('voters'), 'n1');
    const nodes = ['n1', 'n2', 'n3'].map(nodeRecord);
    const view: NotifyView = {
      nodes,
      live: new Set(['n1', 'n2']),
      ops: [],
      pools: new Map(),
      heard: [],
    };
    let ms = 1_000_000;
    const sent: [string, string][] = [];
    let webhookWorks = false;
    const desk = (node: string): NotifyDesk =>
      new NotifyDesk({
        node,
        leads: () => true,
        view: () => ({ view, cluster: 'test', epoch: 1 }),
        ledger: r.ledger,
        clock: { nowMs: () => ms, wallMs: () => ms, sleep: () => Promise.resolve() },
        log: { info: () => undefined, warn: () => undefined, error: (w) => t.fail(w) },
        send: (s, m) => {
          if (s.mail !== null) sent.push(['mail', m.subject]);
          if (s.webhook === null) return Promise.resolve({});
          sent.push(['webhook', m.subject]);
          return Promise.resolve(webhookWorks ? {} : { webhook: 'webhook at x: no' });
        },
      });
    const run = async (d: NotifyDesk, seconds: number): Promise<void> => {
      for (let s = 0; s < seconds; s += 5) {
        ms += 5_000;
        await d.look();
      }
    };
    const first = desk('n1');
    await run(desk('n2'), 100);
    t.same(sent, [], 'who only thinks that it leads tells nothing');
    await run(first, 60);
    t.same(sent, [
      ['mail', '[test] node n3 is down'],
      ['webhook', '[test] node n3 is down'],
    ]);
    await run(first, 70);
    t.same(sent.slice(2), [['webhook', '[test] node n3 is down']], 'the mail is not sent again');
    webhookWorks = true;
    await run(first, 70);
    t.equal(sent.length, 4);
    r.memory.poke(leadKey('voters'), 'n2');
    await run(desk('n2'), 600);
    t.equal(sent.length, 4, 'the next leader knows');
    t.match(JSON.parse(r.memory.peek(notifyStateKey)?.value ?? ''), {
      open: [{ key: 'node-down/n3' }],
      outbox: null,
      last: { ok: true, by: 'n1' },
    });
    t.notMatch(r.memory.peek(notifyStateKey)?.value, /secret|chat\.example/);

    r.memory.poke(notifyTestKey, JSON.stringify({ askedMs: 5, askedBy: 'anna', result: null }));
    await run(desk('n2'), 10);
    t.same(sent.slice(4), [
      ['mail', '[test] a test'],
      ['webhook', '[test] a test'],
    ]);
    t.match(JSON.parse(r.memory.peek(notifyTestKey)?.value ?? ''), { result: { ok: true, by: 'n2' } });
  },
);
