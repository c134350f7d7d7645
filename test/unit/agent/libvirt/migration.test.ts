import { createConnection, type Socket } from 'node:net';
import t from 'tap';
import { LibvirtError } from '../../../../agent/libvirt/error.js';
import { LibvirtHypervisor } from '../../../../agent/libvirt/libvirt-hypervisor.js';
import { EVENTS, MESSAGE, PROGRAM, STATUS, type ProcedureName } from '../../../../agent/libvirt/protocol.js';
import { FakeDaemon, type Arrived } from './fake-daemon.js';

/** A migration that is driven from here, its phases answered by two daemons as the test says. */

const ID = '0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9';
type Tap = Pick<typeof t, 'teardown'>;

async function two(t: Tap) {
  const [here, there] = [new FakeDaemon(), new FakeDaemon()];
  await Promise.all([here.listen(), there.listen()]);
  const hypervisor = new LibvirtHypervisor({ socketPath: here.socketPath });
  t.teardown(async () => {
    await hypervisor.close();
    await Promise.all([here.dispose(), there.dispose()]);
  });
  hypervisor.open();
  await hypervisor.waitConnected();
  const peer = (): Promise<Socket> =>
    new Promise((resolve, reject) => {
      const socket = createConnection(there.socketPath, () => resolve(socket));
      socket.once('error', reject);
    });
  const decided: string[] = [];
  const job = hypervisor.migrate(
    ID,
    { uri: 'libvirt of n2', peer },
    {
      mode: 'live',
      leavePaused: true,
      onArrived: () => {
        decided.push('asked');
        return Promise.resolve('go');
      },
    },
  );
  const ended = job.done.then(
    () => null,
    (e: unknown) => e as LibvirtError,
  );
  return { here, there, job, ended, decided };
}

/** The first call of that procedure. */
async function called(daemon: FakeDaemon, name: ProcedureName): Promise<Arrived> {
  await daemon.until(name, () => daemon.arrived.some((c) => c.name === name));
  const call = daemon.arrived.find((c) => c.name === name);
  if (call === undefined) throw new Error('unreachable');
  return call;
}

const names = (daemon: FakeDaemon): string[] => daemon.arrived.map((c) => c.name);
const cookie = new Uint8Array();
const domain = { name: 'web', uuid: ID, id: 1 };

/** The daemon tells that its machine has died. */
function dies(daemon: FakeDaemon): void {
  const { number: procedure, body } = EVENTS.lifecycle;
  const header = { program: PROGRAM.remote, version: 1, procedure, serial: 0, status: STATUS.ok };
  for (const socket of daemon.sockets)
    daemon.send(socket, { ...header, type: MESSAGE.event }, body, {
      callbackId: 1,
      domain,
      event: 5,
      detail: 3,
    });
}

async function preparing(here: FakeDaemon, there: FakeDaemon): Promise<Arrived> {
  here.reply(await called(here, 'domainMigrateBegin3Params'), { cookie, xml: '<domain/>' });
  return called(there, 'domainMigratePrepare3Params');
}

await t.test('one that is cancelled while QEMU starts there ends at once, there too', async (t) => {
  const { here, there, job, ended } = await two(t);
  await preparing(here, there);
  // The daemon here knows of nothing to abort.
  const cancelled = job.cancel();
  here.refuse(await called(here, 'domainAbortJob'), 55, 'no job is active on the domain');
  const error = await ended;
  t.match(error, { code: 'aborted', outcome: 'not-sent' });
  await there.until('its connection ends', () => there.sockets.size === 0);
  t.notOk(names(here).includes('domainMigratePerform3Params'));
  await cancelled.catch(() => undefined);
});

await t.test('a machine that dies while QEMU starts there is waited for by nobody', async (t) => {
  const { here, there, ended, decided } = await two(t);
  await preparing(here, there);
  dies(here);
  t.match(await ended, { code: 'aborted', outcome: 'not-sent' });
  await there.until('its connection ends', () => there.sockets.size === 0);
  t.notOk(names(here).includes('domainMigratePerform3Params'));
  t.same(decided, []);
});

await t.test('a daemon that falls silent as the copy is to be whole: the guest goes on here', async (t) => {
  const { here, there, ended, decided } = await two(t);
  there.reply(await preparing(here, there), { cookie, uri: null });
  here.reply(await called(here, 'domainMigratePerform3Params'), { cookie });
  // Nothing there is answered from now on, the question whether it lives among it.
  await called(there, 'domainMigrateFinish3Params');
  const confirm = await called(here, 'domainMigrateConfirm3Params');
  t.match(confirm.args, { cancelled: 1 });
  here.reply(confirm, undefined);
  t.match(await ended, { code: 'closed' });
  t.same(decided, [], 'nobody was asked who goes on');
  t.notOk(names(here).includes('domainAbortJob'), 'what is whole is not aborted');
});

await t.test('a machine that dies once the copy is whole ends nothing: the copy goes on', async (t) => {
  const { here, there, ended, decided } = await two(t);
  there.reply(await preparing(here, there), { cookie, uri: null });
  here.reply(await called(here, 'domainMigratePerform3Params'), { cookie });
  const finish = await called(there, 'domainMigrateFinish3Params');
  dies(here);
  there.reply(finish, { domain, cookie });
  here.reply(await called(here, 'domainMigrateConfirm3Params'), undefined);
  t.equal(await ended, null);
  t.same(decided, ['asked']);
});
