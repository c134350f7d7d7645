import { readFile, stat, writeFile } from 'node:fs/promises';
import path from 'node:path';
import t from 'tap';
import { makeCa } from '../../../../agent/pki/certificates.js';
import { ensurePrivateKey, newPrivateKey } from '../../../../agent/pki/keys.js';
import { pkiPaths, writePublic } from '../../../../agent/pki/store.js';
import { agentConfigSchema } from '../../../../agent/cluster/config.js';
import { VoterSeat } from '../../../../agent/cluster/voter-seat.js';
import type { Member } from '../../../../agent/ledger/members.js';
import { FlotillaError } from '../../../../core/domain/error.js';
import { FakeServices, KeptLog } from './rig.js';

const member = (id: string, address: string): Member => ({
  id,
  name: `n${id}`,
  peerUrls: [`https://${address}:2380`],
  clientUrls: [],
  learner: false,
});
const [own, other] = [member('1', '10.0.0.1'), member('2', '10.0.0.2')];
const refusal = (code: 'wrong-state' | 'node-unreachable') => new FlotillaError(code, 'no', { hint: 'none' });

function seat(dir: string, fetchCaKeys: (addresses: readonly string[]) => Promise<readonly string[]>) {
  const config = agentConfigSchema.parse({ name: 'n1', address: '10.0.0.1', stateDir: dir });
  const services = new FakeServices();
  return {
    services,
    seat: new VoterSeat({ config, clusterId: 'c', services, log: new KeptLog(), fetchCaKeys }),
  };
}
const caKey = (dir: string) => path.join(dir, 'pki', 'ca.key');

/** Gives the node a CA. @returns its key, which the node has not */
async function withCa(dir: string): Promise<string> {
  const keyFile = path.join(dir, 'elsewhere.key');
  const key = await ensurePrivateKey(keyFile);
  const clusterId = '6f1d4a52-9a3a-4ee6-9f0c-0f6c1a0c8e11';
  await writePublic(pkiPaths(dir).caCert, await makeCa({ clusterId, keyFile, wallMs: Date.now() }));
  return key;
}

void t.test(
  'a new voter fetches the CA’s key first, and takes no seat while that may yet succeed',
  async (t) => {
    const dir = t.testdir();
    const key = await withCa(dir);
    const away = seat(dir, async () => Promise.reject(refusal('node-unreachable')));
    await t.rejects(away.seat.settle([own, other]), { code: 'node-unreachable' });
    t.same(away.services.calls, []);
    const there = seat(dir, async (addresses) =>
      addresses.join() === '10.0.0.2' ? [newPrivateKey(), key] : [],
    );
    await there.seat.settle([own, other]);
    t.equal(await readFile(caKey(dir), 'utf8'), key, 'the one that is of the CA');
    t.same(there.services.calls, ['enable flotilla-etcd']);
  },
);

void t.test(
  'where the CA’s key was lost with all former voters, the ledger still gets its voters',
  async (t) => {
    const dir = t.testdir();
    await withCa(dir);
    let asked = 0;
    const s = seat(dir, async () => {
      asked++;
      return Promise.reject(refusal('wrong-state'));
    });
    await s.seat.settle([own, other]);
    t.same(s.services.calls, ['enable flotilla-etcd']);
    await s.seat.settle([own, other]);
    t.equal(asked, 2, 'it is asked for at each look: somebody may put it back');
    await t.rejects(stat(caKey(dir)), { code: 'ENOENT' });

    await withCa(path.join(dir, 'alone'));
    const alone = seat(path.join(dir, 'alone'), async () => {
      throw new Error('nobody is there to be asked');
    });
    await alone.seat.settle([own]);
    t.same(alone.services.calls, ['enable flotilla-etcd']);
  },
);

void t.test('a file that listens at one address only is put right, without a restart', async (t) => {
  const dir = t.testdir();
  const key = await withCa(dir);
  const s = seat(dir, async () => [key]);
  await s.seat.settle([own, other]);
  const file = path.join(dir, 'etcd.env');
  const text = await readFile(file, 'utf8');
  t.match(text, /^ETCD_LISTEN_CLIENT_URLS=https:\/\/0\.0\.0\.0:2379$/m);
  await writeFile(file, text.replace('https://0.0.0.0:2379', 'https://10.0.0.1:2379,https://127.0.0.1:2379'));
  s.services.calls.splice(0);
  await s.seat.settle([own, other]);
  t.same(s.services.calls, []);
  t.equal(await readFile(file, 'utf8'), text);
});
