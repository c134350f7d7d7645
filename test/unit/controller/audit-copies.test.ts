import t from 'tap';
import { auditApp } from '../../../agent/http/audit.js';
import { createAgentHttp } from '../../../agent/http/server.js';
import type { Log } from '../../../agent/env.js';
import { HttpsAsk } from '../../../controller/agent-ask.js';
import type { AgentAddress } from '../../../controller/api/uploads.js';
import { AuditCopies } from '../../../controller/audit-copies.js';
import { FlotillaError } from '../../../core/domain/error.js';
import { auditLetterBytesMax, type AuditLetter } from '../../../core/wire/audit.js';
import { TestCa } from '../agent/radio/test-pki.js';

type Line = { readonly text: string } & Record<string, unknown>;

/** A log, and what was written to it. */
function keptLog(): { readonly lines: Line[]; readonly log: Log } {
  const lines: Line[] = [];
  const keep = (text: string, fields?: Record<string, unknown>): void => void lines.push({ ...fields, text });
  return { lines, log: { info: keep, warn: keep, error: keep } };
}

/** Time that goes on as soon as somebody waits for it. */
const clock = {
  wallMs: () => Date.UTC(2026, 0, 2),
  sleep: async (_: number, signal?: AbortSignal) => {
    await new Promise(setImmediate);
    signal?.throwIfAborted();
  },
};

const change = { who: 'anna', what: 'vmCreate', params: { vm: 'web' }, from: '192.0.2.1', result: 'done' };
const away = new FlotillaError('node-unreachable', 'Node n2 does not answer', { hint: '' });

async function until(what: string, holds: () => boolean): Promise<void> {
  const endMs = Date.now() + 60_000;
  while (!holds()) {
    if (Date.now() > endMs) throw new Error(`not within 60 s: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

await t.test('a line is in the journal of another node, over mutual TLS', async (t) => {
  const ca = await new TestCa(t.testdir({}), 'ca').make();
  const [n1, n2] = await Promise.all(['n1', 'n2'].map((n) => ca.certificate(n)));
  if (n1 === undefined || n2 === undefined) throw new Error('no certificates');
  const [there, here] = [keptLog(), keptLog()];
  const server = createAgentHttp({
    host: '127.0.0.1',
    port: 0,
    node: 'n2',
    tls: () => n2,
    verifyToken: () => ({ ok: false, code: 'token-unknown' }),
    health: () => ({ ok: true, node: 'n2', version: '0', fingerprint: 'ab'.repeat(32) }),
    page: () => '',
    metrics: () => '',
    mounts: [
      { path: '/v1/audit', app: auditApp(there.log), allow: 'node', bodyBytesMax: auditLetterBytesMax },
    ],
    clock: { nowMs: () => 0 },
    log: there.log,
  });
  await server.start();
  const ask = new HttpsAsk({ tls: () => n1, port: server.port });
  const to = { id: 'localhost', address: '127.0.0.1' };
  const copies = new AuditCopies({
    log: here.log,
    clock,
    others: () => [to],
    send: async (node, letter, signal) => void (await ask.post(node, '/v1/audit', letter, signal)),
  });
  t.teardown(async () => {
    await copies.stop();
    ask.close();
    await server.stop();
  });
  copies.log.info('controller is up', { port: 1 });
  copies.log.info('audit', change);
  copies.log.warn('audit', { who: 'somebody', what: 'login', result: 'login-refused', tries: 3 });
  await until('both lines are there', () => there.lines.length === 2);
  t.same(there.lines, [
    { ...change, at: '2026-01-02T00:00:00.000Z', by: 'n1', text: 'audit' },
    {
      who: 'somebody',
      what: 'login',
      result: 'login-refused',
      tries: '3',
      at: '2026-01-02T00:00:00.000Z',
      by: 'n1',
      text: 'audit',
    },
  ]);
  t.equal(here.lines.length, 3, 'and all of it here');
  const none = new AbortController().signal;
  for (const bad of [{}, { lines: [] }, { lines: [{ atMs: 1, fields: { who: { deep: { er: 'x' } } } }] }])
    await t.rejects(ask.post(to, '/v1/audit', bad, none), { code: 'bad-input' });
  t.equal(there.lines.length, 2);
});

await t.test('where no node takes them lines wait, in order, and it is said once', async (t) => {
  const { lines, log } = keptLog();
  const taken: string[] = [];
  let others: AgentAddress[] = [];
  let tries = 0;
  const send = (node: AgentAddress, letter: AuditLetter): Promise<void> => {
    tries++;
    if (node.id === 'n2') return Promise.reject(away);
    taken.push(...letter.lines.map((l) => `${node.id} ${JSON.stringify(l.fields['what'])}`));
    return Promise.resolve();
  };
  const copies = new AuditCopies({ log, clock, others: () => others, send });
  t.teardown(() => copies.stop());
  for (let i = 0; i < 3; i++) copies.log.info('audit', { what: `change ${i}` });
  const said = (): string[] => lines.filter((l) => l.text !== 'audit').map((l) => l.text);
  await until('it is said', () => said().length > 0);
  t.same(said(), ['the audit is not copied to another node: no other node is heard']);
  others = [{ id: 'n2', address: 'a' }];
  await until('it tries', () => tries >= 3);
  t.equal(said().length, 1);
  others = [...others, { id: 'n3', address: 'b' }];
  await until('it has them', () => taken.length === 3);
  t.same(taken, ['n3 "change 0"', 'n3 "change 1"', 'n3 "change 2"']);
  await until('it says so', () => said().length === 2);
  t.equal(said()[1], 'the audit is copied to another node again');
});

await t.test('the queue is bounded: the oldest go, and how many is told', async (t) => {
  const { lines, log } = keptLog();
  const taken: AuditLetter[] = [];
  let open = false;
  const copies = new AuditCopies({
    log,
    clock,
    others: () => [{ id: 'n2', address: 'a' }],
    send: (_, letter) => (open ? Promise.resolve(void taken.push(letter)) : Promise.reject(away)),
  });
  t.teardown(() => copies.stop());
  copies.log.info('audit', { what: 'x'.repeat(10_000) });
  for (let i = 1; i < 5_010; i++) copies.log.info('audit', { what: String(i) });
  await until('it is said', () => lines.some((l) => l.text.startsWith('the audit is not copied')));
  open = true;
  await until('all is taken', () => lines.some((l) => l.text.endsWith('again')));
  t.equal(lines.find((l) => l.text.endsWith('again'))?.['lost'], 10);
  await until('the rest is taken', () => taken.flatMap((l) => l.lines).length === 5_000);
  t.equal(taken[0]?.lines[0]?.fields['what'], '10');
  t.ok(taken.every((l) => l.lines.length <= 100));
});
