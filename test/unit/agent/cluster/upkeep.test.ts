import { readFile, writeFile } from 'node:fs/promises';
import path from 'node:path';
import t from 'tap';
import { join } from '../../../../agent/cluster/join.js';
import { Upkeep } from '../../../../agent/cluster/upkeep.js';
import { isFor } from '../../../../agent/pki/certificates.js';
import { readTls } from '../../../../agent/pki/store.js';
import type { TlsMaterial } from '../../../../agent/pki/tls.js';
import { ledger as kinds } from '../../../../core/wire/ledger-keys.js';
import { FakeServices, KeptLog, Rig, TestClock } from './rig.js';

void t.test('broker files and certificate are kept', async (t) => {
  const r = new Rig(t.testdir());
  await r.start();
  t.teardown(() => r.stop());
  const config = r.nodeConfig('n2', '127.0.0.12', r.port);
  await join(
    { config, services: new FakeServices(), clock: r.clock, log: r.log, limitMs: 0 },
    await r.token(),
  );

  const services = new FakeServices();
  const clock = new TestClock();
  const given: TlsMaterial[] = [];
  let voters = ['127.0.0.11'];
  let addresses: string[] = [];
  const deps = {
    config,
    services,
    clock,
    log: new KeptLog(),
    voters: () => voters,
    addresses: () => addresses,
    onTls: (m: TlsMaterial) => void given.push(m),
  };
  const upkeep = new Upkeep(deps);
  t.ok(await upkeep.step());
  t.same([services.calls, given, upkeep.fault()], [[], [], null], 'nothing to do');

  const mosquitto = path.join(config.stateDir, 'mosquitto');
  await writeFile(path.join(mosquitto, 'acl'), 'topic readwrite #\n');
  await upkeep.step();
  t.same(
    services.calls.splice(0),
    ['reload flotilla-mosquitto'],
    'an access list that was changed is put right',
  );
  t.notMatch(await readFile(path.join(mosquitto, 'acl'), 'utf8'), /readwrite/);
  await writeFile(path.join(mosquitto, 'mosquitto.conf'), 'allow_anonymous true\n');
  await upkeep.step();
  t.same(services.calls.splice(0), ['restart flotilla-mosquitto']);

  const before = await readTls(config.stateDir);
  clock.wallOffsetMs = 810 * 86_400_000;
  voters = ['127.0.0.99'];
  t.notOk(await upkeep.step(), 'nobody there to sign');
  t.match(upkeep.fault(), /127\.0\.0\.99/);
  voters = ['127.0.0.99', '127.0.0.11'];
  t.ok(await upkeep.step());
  const after = await readTls(config.stateDir);
  t.not(after.cert, before.cert);
  t.same(given, [after], 'connections get it');
  t.equal(await readFile(path.join(mosquitto, 'node.crt'), 'utf8'), after.cert, 'and the broker');
  t.same(services.calls.splice(0), ['reload flotilla-mosquitto']);

  await r.store.change(kinds.node, 'n2', (n) =>
    n === null ? null : { ...n, addresses: ['127.0.0.12', '127.9.0.2'] },
  );
  addresses = ['127.0.0.12', '127.9.0.2'];
  clock.wallOffsetMs = 0;
  t.ok(await upkeep.step());
  t.ok(isFor((await readTls(config.stateDir)).cert, '127.9.0.2'), 'it is for the new address, too');
  given.splice(0);
  t.ok(await upkeep.step());
  t.same(given, [], 'once');
});
