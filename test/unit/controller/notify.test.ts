import { writeFile } from 'node:fs/promises';
import path from 'node:path';
import t from 'tap';
import { notifyKey, notifyTestKey } from '../../../core/wire/ledger-keys.js';
import { lab } from './cli-rig.js';

const l = await lab();
const { r } = l;
t.teardown(() => l.stop());
const at = '/api/v1/notifications';
const secret = 'a-secret-of-mail';
const hook = 'https://chat.example.org/hooks/T0P-SECRET';
const mail = {
  host: 'mail.example.org',
  user: 'fleet',
  password: secret,
  from: 'fleet@example.org',
  to: ['ops@example.org'],
};
const kept = (): unknown => JSON.parse(r.memory.peek(notifyKey)?.value ?? 'null');

await t.test('secrets are taken and never given', async (t) => {
  t.match(await r.call('POST', `${at}/test`), { status: 409, body: { code: 'wrong-state' } });
  const set = await r.call('PATCH', at, { mail, webhook: hook });
  t.match(set, {
    status: 200,
    body: {
      mail: { host: 'mail.example.org', port: 587, security: 'starttls', passwordSet: true },
      webhook: 'https://chat.example.org',
    },
  });
  t.match(kept(), { mail: { password: secret }, webhook: hook });
  for (const answer of [set, await r.call('GET', at), r.audit, await r.call('GET', '/api/v1/ops')])
    t.notMatch(JSON.stringify(answer), /a-secret-of-mail|T0P/);
});

await t.test('a password stays with its server and user, and goes nowhere else', async (t) => {
  const { password: _, ...same } = mail;
  t.match(await r.call('PATCH', at, { mail: { ...same, to: ['new@example.org'] } }), { status: 200 });
  t.match(kept(), { mail: { password: secret, to: ['new@example.org'] }, webhook: hook });
  t.match(await r.call('PATCH', at, { mail: { ...same, host: 'evil.example.org' } }), { status: 400 });
  t.match(kept(), { mail: { host: 'mail.example.org' } });
  for (const bad of [
    { mail: { ...mail, to: ['x\r\nBcc: y@example.org'] } },
    { mail: { ...mail, host: 'a b' } },
    { webhook: 'file:///etc/passwd' },
    { webhook: 'https://u:p@example.org' },
  ])
    t.equal((await r.call('PATCH', at, bad)).status, 400);
});

await t.test('flotilla notify', async (t) => {
  const file = path.join(l.dir, 'smtp-password');
  await writeFile(file, 'another-secret\n');
  const set = await l.run(
    ...['notify', 'set', '--smtp-host', 'relay.example.org', '--smtp-port', '465', '--smtp-security', 'tls'],
    ...[
      '--smtp-user',
      'me',
      '--smtp-password-file',
      file,
      '--from',
      'a@example.org',
      '--to',
      'b@example.org',
    ],
    ...['--to', 'c@example.org'],
  );
  t.match(set, { code: 0, out: /b@example.org, c@example.org, by relay.example.org:465 \(tls, as me\)/ });
  t.notMatch(set.out, /another-secret/);
  t.match(kept(), { mail: { password: 'another-secret' }, webhook: hook });
  const test = l.run('notify', 'test');
  const look = setInterval(() => {
    const now = r.memory.peek(notifyTestKey);
    if (now === null || now === undefined) return;
    const asked = JSON.parse(now.value) as object;
    const result = { by: 'n1', atMs: 5, ok: false, text: 'mail by relay.example.org: 535' };
    r.memory.poke(notifyTestKey, JSON.stringify({ ...asked, result }));
  }, 50);
  t.match(await test, { code: 1, err: /Node n1 could not send it: mail by relay.example.org: 535/ });
  clearInterval(look);
  t.match(await l.run('notify', 'off'), { code: 0, out: /nobody/ });
  t.same(kept(), { mail: null, webhook: null });
});
