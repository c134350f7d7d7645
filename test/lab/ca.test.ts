import t from 'tap';
import type { Op } from '../../core/domain/op.js';
import type { CaView } from '../../core/wire/rest.js';
import { Drills } from './drill.js';
import { waitFor } from './harness.js';

/** The CA of three real nodes is replaced under a VM that runs: its guest notices nothing. */

const d = await Drills.up({ id: 'flca', net: '10.78.0', guestNet: '10.78.100', timing: 'lab' });
const { c, lab } = d;
t.teardown(() => d.down());

const pki = '/var/lib/flotilla/pki';
const caOf = (n: string): Promise<string> =>
  lab.sh(n, `grep -c BEGIN ${pki}/ca.crt; openssl x509 -in ${pki}/ca.crt -noout -fingerprint -sha256`);
const serialOf = (n: string): Promise<string> => lab.sh(n, `openssl x509 -in ${pki}/node.crt -noout -serial`);
/** How often a keeper had no good renewal: its VMs were frozen. */
const ices = async (): Promise<number> => {
  const counts = d.nodes.map((n) =>
    lab.sh(n, "journalctl -u flotilla-keeper -o cat --no-pager | grep -ci 'mode ice\\|freez' || true"),
  );
  return (await Promise.all(counts)).reduce((a, n) => a + Number(n), 0);
};

await t.test('a certificate that ends soon is renewed by itself', async (t) => {
  const before = await serialOf('n2');
  const csr = await lab.sh('n2', `openssl req -new -key ${pki}/node.key -subj /CN=n2`);
  const ext = `subjectAltName=DNS:n2,DNS:localhost,IP:${lab.address('n2')},IP:127.0.0.1`;
  const soon = await lab.sh(
    'n1',
    `cd /root && cat >soon.csr <<'END'\n${csr}\nEND\nprintf '%s\\nextendedKeyUsage=serverAuth,clientAuth\\n' '${ext}' >soon.ext
     openssl x509 -req -in soon.csr -CA ${pki}/ca.crt -CAkey ${pki}/ca.key -days 30 -extfile soon.ext 2>/dev/null`,
  );
  await lab.sh('n2', `cat >${pki}/node.crt <<'END'\n${soon}\nEND\nsystemctl restart flotilla-agent`);
  const made = await serialOf('n2');
  t.not(made, before);
  await waitFor('it is renewed', async () => (await serialOf('n2')) !== made, { limitMs: 240_000 });
  await lab.sh('n2', `openssl x509 -in ${pki}/node.crt -noout -checkend ${800 * 86_400}`);
  await d.allThere();
  // Its agent has only begun.
  await waitFor('n2 is well, and reaches the pool', async () => {
    const { body } = await c.get<{ live: boolean; problems: string[] }>('nodes/n2');
    const { items } = (await c.get<{ items: { use: { node: string; ok: boolean }[] }[] }>('pools')).body;
    const uses = items.flatMap((p) => p.use).filter((u) => u.node === 'n2');
    if (!body.live || body.problems.length > 0) throw new Error(JSON.stringify(body.problems));
    return uses.length > 0 && uses.every((u) => u.ok);
  });
});

await t.test('the CA is replaced; the VM goes on in the same boot, and is never frozen', async (t) => {
  await d.witness('web', 'n2');
  const boot = d.bootOf('web');
  const [frozenBefore, caBefore, cert] = [
    await ices(),
    await caOf('n1'),
    await lab.sh('n3', `cat ${pki}/node.crt`),
  ];
  await lab.sh(
    'n3',
    `umask 077; mkdir -p /root/old; cp ${pki}/node.crt ${pki}/node.key ${pki}/ca.crt /root/old/`,
  );
  t.match(cert, /BEGIN CERTIFICATE/);
  const { op } = await c.must<{ op: Op }>('POST', 'ca/actions/rotate', {});
  // The agent of a voter dies in the middle.
  await waitFor('it is under way', async () => (await c.get<CaView>('ca')).body.other !== null, {
    limitMs: 300_000,
  });
  await d.signal('n1', await d.pidOf('n1', 'flotilla-agent'), 'KILL');
  const learning = setInterval(() => void c.learnCa().catch(() => undefined), 5_000);
  const end = await c.opEnd(op, 900_000).finally(() => clearInterval(learning));
  await c.learnCa();
  t.match(end, { state: 'done', error: null }, JSON.stringify(end));
  for (const n of d.nodes) {
    const now = await caOf(n);
    t.match(now, /^1\n/, `${n} trusts one CA`);
    t.not(now, caBefore);
    await lab.sh(n, `openssl verify -CAfile ${pki}/ca.crt ${pki}/node.crt`);
  }
  await d.goesOn('web');
  t.equal(d.bootOf('web'), boot, 'the same boot of the guest');
  t.equal(await ices(), frozenBefore, 'no keeper lost its lease');
  t.same(d.violations(), []);
  t.comment(`took ${Math.round((end.updatedMs - end.createdMs) / 1000)} s`);

  // What n3 had before opens nothing any more.
  const at = `https://${lab.address('n1')}:2379`;
  const etcd = (cacert: string, of: string) =>
    lab.exec(
      'n3',
      ...['etcdctl', '--cacert', cacert, '--cert', `${of}/node.crt`, '--key', `${of}/node.key`],
      ...['--command-timeout=5s', '--endpoints', at, 'get', '/flotilla/meta'],
    );
  t.equal((await etcd(`${pki}/ca.crt`, pki)).code, 0);
  t.not((await etcd(`${pki}/ca.crt`, '/root/old')).code, 0, 'its certificate of before');
  t.not((await etcd('/root/old/ca.crt', pki)).code, 0, 'nor does who trusts the old CA believe etcd');
  const sub = await lab.exec(
    'n3',
    ...['mosquitto_sub', '-V', '5', '-h', lab.address('n1'), '-p', '8883', '--cafile', `${pki}/ca.crt`],
    ...['--cert', '/root/old/node.crt', '--key', '/root/old/node.key', '-t', 'v1/#', '-W', '1', '-E'],
  );
  t.not(sub.code, 0, 'nor at mosquitto');
});

await t.test('it migrates by certificates of the new CA', async (t) => {
  const boot = d.bootOf('web');
  const to = await d.untilProtected('web');
  const { op } = await c.must<{ op: Op }>('POST', 'vms/web/migrate', {});
  t.match(await c.opEnd(op, 400_000), { state: 'done' });
  t.equal(await d.ownerOf('web'), to);
  await d.goesOn('web');
  t.equal(d.bootOf('web'), boot);
});
