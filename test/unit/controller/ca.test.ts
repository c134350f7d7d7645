import { readFile } from 'node:fs/promises';
import path from 'node:path';
import t from 'tap';
import { certificateSha256 } from '../../../agent/pki/bundle.js';
import { makeCa, makeCsr, signNode, vouch } from '../../../agent/pki/certificates.js';
import { ensurePrivateKey } from '../../../agent/pki/keys.js';
import type { Op } from '../../../core/domain/op.js';
import { ledger as kinds, metaKey, writeRecord } from '../../../core/wire/ledger-keys.js';
import type { CaView } from '../../../core/wire/rest.js';
import { lab } from './cli-rig.js';
import { haRig } from './ha-rig.js';
import type { Rig } from './rig.js';

const at = '/api/v1/ca';
const opOf = (r: Rig, id: string): Op => JSON.parse(r.memory.peek(kinds.op.key(id))?.value ?? 'null') as Op;
const says = (r: Rig, node: string, ca: string): void =>
  r.memory.poke(kinds.trust.key(node), writeRecord(kinds.trust, { trusts: [ca], issuer: ca, keys: [ca] }));

void t.test(
  'the CA is shown, replaced by one operation at a time, and gone on with without some',
  async (t) => {
    const r = await haRig();
    t.teardown(() => r.stop());
    const idle = (await r.call('GET', at)).body as CaView;
    t.match(idle, { phase: null, other: null, op: null, waits: [], sentence: /not being replaced/ });
    const ca = certificateSha256(idle.ca.pem);
    t.equal(idle.ca.sha256, ca);
    for (const bad of [{ without: ['n9'] }, { without: 'n3' }, { more: 1 }])
      t.match(await r.call('POST', `${at}/actions/rotate`, bad), { status: /4\d\d/ });
    const headers = { 'idempotency-key': 'a-key-of-some-length' };
    const made = await r.call('POST', `${at}/actions/rotate`, {}, headers);
    t.match(made, { status: 202, body: { op: { kind: 'cluster.rotate-ca', state: 'queued', node: null } } });
    const { op } = made.body as { op: Op };
    t.match(opOf(r, op.id).args, { from: ca, to: null, without: [] });
    for (const h of [headers, {}])
      t.match(await r.call('POST', `${at}/actions/rotate`, {}, h), {
        status: 202,
        body: { op: { id: op.id } },
      });

    await r.view.ledger.refresh();
    r.view.fold();
    const nodes = [...r.view.ledger.tables.node.values()].map((k) => k.value);
    const [voter, other] = [nodes.find((n) => n.voter)?.id ?? '', nodes.find((n) => !n.voter)?.id];
    for (const n of nodes) if (n.id !== voter) says(r, n.id, ca);
    await r.view.ledger.refresh();
    t.match((await r.call('GET', at)).body, {
      phase: 'ready',
      waits: [{ node: voter, why: String }],
      op: { id: op.id },
    });
    t.match(await r.call('POST', `${at}/actions/rotate`, { without: [voter] }), {
      status: 409,
      body: { code: 'wrong-state', message: /votes/ },
    });
    if (other !== undefined) {
      t.match(await r.call('POST', `${at}/actions/rotate`, { without: [other] }), { status: 202 });
      t.same(opOf(r, op.id).args['without'], [other]);
    }
    t.match(await r.call('POST', `/api/v1/ops/${op.id}/cancel`), {
      status: 202,
      body: { cancelAsked: true },
    });
  },
);

void t.test('the command line: what it shows, and a session that outlives the CA', async (t) => {
  const l = await lab();
  t.teardown(() => l.stop());
  t.match(await l.run('certificate', 'ca'), { code: 0, out: /not being replaced.*\n.*[0-9a-f]{64}/s });
  t.match(await l.run('certificate', 'rotate-ca', '--no-wait'), {
    code: 0,
    out: /cluster\.rotate-ca .*queued/,
  });
  t.match(await l.run('certificate', 'ca'), {
    code: 0,
    out: /is being replaced: looks whether every node is able/,
  });

  // Logged in by the old CA.
  const file = (name: string): string => path.join(l.dir, name);
  const [token, old] = [l.env['FLOTILLA_TOKEN_FILE'] ?? '', await readFile(file('ca.crt'), 'utf8')];
  for (const k of ['FLOTILLA_SERVER', 'FLOTILLA_TOKEN_FILE', 'FLOTILLA_CA']) delete l.env[k];
  t.match(await l.run('login', '--server', l.url, '--token-file', token, '--ca', file('ca.crt')), {
    code: 0,
  });
  const kept = async () =>
    JSON.parse(await readFile(file('.config/flotilla/login.json'), 'utf8')) as { ca: string; token: string };

  const wallMs = Date.now();
  const clusterId = '00000000-0000-4000-8000-0000000000c1';
  const make = async (mark: string) => {
    await ensurePrivateKey(file(`${mark}.key`));
    const ca = {
      keyFile: file(`${mark}.key`),
      cert: await makeCa({ clusterId, keyFile: file(`${mark}.key`), wallMs, mark }),
    };
    const csr = await makeCsr({ keyFile: file('node.key'), commonName: 'n1' });
    const cert = await signNode(ca, csr, { node: 'n1', addresses: ['127.0.0.1'] }, wallMs);
    return { ca, cert };
  };
  const key = await readFile(file('node.key'), 'utf8');
  const [next, evil] = [await make('next'), await make('evil')];
  const word = await vouch({ cert: old, keyFile: file('ca.key') }, next.ca, wallMs);
  l.serve({ key, cert: evil.cert, ca: evil.ca.cert, handover: `${word}${old}` });
  t.match(await l.run('vm', 'list'), { err: /is not trusted/ }, 'the word is for another one');
  t.equal((await kept()).ca, old);
  l.serve({ key, cert: next.cert, ca: next.ca.cert, handover: `${word}${old}` });
  t.match(await l.run('vm', 'list'), { code: 0 });
  t.equal(certificateSha256((await kept()).ca), certificateSha256(next.ca.cert), 'and kept');
  t.match((await kept()).token, /^flt-api/);
  const asked = await l.run('login', '--server', l.url, '--token-file', token);
  t.match(asked.err, new RegExp(certificateSha256(next.ca.cert)), 'who logs in compares the new one');
  l.env['FLOTILLA_CA'] = file('ca.crt');
  t.match(await l.run('vm', 'list'), { code: 0 }, 'also where the CA is in a file of the user');
  t.equal(await readFile(file('ca.crt'), 'utf8'), old, 'which is left alone');
});

void t.test('a token to join is made with the CA that signs', async (t) => {
  const l = await lab();
  t.teardown(() => l.stop());
  const { ca } = JSON.parse(l.r.memory.peek(metaKey)?.value ?? '{}') as { ca: string };
  const made = await l.r.call('POST', '/api/v1/tokens', { kind: 'join', name: 'j' });
  t.match((made.body as { token: string }).token, new RegExp(`${certificateSha256(ca)}$`));
});
