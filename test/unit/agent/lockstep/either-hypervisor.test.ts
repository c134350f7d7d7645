import t from 'tap';
import { eitherHypervisor } from '../../../../agent/lockstep/either-hypervisor.js';
import type { LockstepHypervisor } from '../../../../agent/lockstep/lockstep-hypervisor.js';
import type { HostEvent, Hypervisor } from '../../../../agent/libvirt/hypervisor.js';
import { EventHub } from '../../../../agent/libvirt/event-hub.js';

const pair = '0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9';
const other = '1a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9';
const xml = (id: string, lockstep: boolean): string =>
  `<domain><uuid>${id}</uuid><metadata><f:vm gen="1"${lockstep ? ' lockstep="1"' : ''}/></metadata></domain>`;

/** Both sides, each of which notes what it was asked. */
function both(): { either: Hypervisor; asked: string[]; hubs: { libvirt: EventHub; lockstep: EventHub } } {
  const asked: string[] = [];
  const hubs = { libvirt: new EventHub(), lockstep: new EventHub() };
  const side = (name: 'libvirt' | 'lockstep', ids: Set<string>, more: object): object => ({
    has: (id: string) => ids.has(id),
    list: async () => [...ids].map((uuid) => ({ uuid, name: uuid, id: null, active: false })),
    stats: async (o?: { domains?: string[] }) =>
      [...ids].filter((i) => o?.domains?.includes(i) ?? true).map((uuid) => ({ uuid, name: uuid, id: null })),
    define: async (text: string) => (
      asked.push(`${name} define`),
      ids.add(/<uuid>(.*)<\/uuid>/.exec(text)?.[1] ?? '')
    ),
    undefine: async (id: string) => (asked.push(`${name} undefine`), ids.delete(id)),
    start: async () => void asked.push(`${name} start`),
    events: (signal?: AbortSignal) => hubs[name].read(signal, []),
    ...more,
  });
  const libvirt = side('libvirt', new Set([other]), {
    connected: true,
    migrate: () => ({ done: Promise.resolve() }),
    attachDevice: async () => void asked.push('libvirt attach'),
    facts: async () => ({ hostname: 'n1' }),
  });
  const lockstep = side('lockstep', new Set([pair]), {});
  return {
    either: eitherHypervisor(libvirt as Hypervisor, lockstep as LockstepHypervisor),
    asked,
    hubs,
  };
}

await t.test('each VM is asked where it is, and all are listed', async (t) => {
  const { either, asked } = both();
  t.same(
    (await either.list()).map((d) => d.uuid),
    [pair, other],
  );
  t.same(
    (await either.stats({ domains: [pair] })).map((d) => d.uuid),
    [pair],
    'none of the others',
  );
  await either.start(pair);
  await either.start(other);
  t.same(asked, ['lockstep start', 'libvirt start']);
  t.match(await either.facts(), { hostname: 'n1' });
  t.ok(either.connected);
});

await t.test('what a VM in lockstep cannot is refused in words', async (t) => {
  const { either, asked } = both();
  await t.rejects(either.attachDevice(pair, '<disk/>'), { code: 'unsupported', message: /lockstep/ });
  const job = either.migrate(pair, { uri: '' }, { mode: 'live' });
  await t.rejects(job.done, { code: 'unsupported' });
  await either.attachDevice(other, '<disk/>');
  t.same(asked, ['libvirt attach']);
});

await t.test('a VM is defined at one of them only', async (t) => {
  const { either, asked } = both();
  await either.define(xml(other, true));
  await either.define(xml(pair, false));
  t.same(asked, ['libvirt undefine', 'lockstep define', 'lockstep undefine', 'libvirt define']);
  t.equal((await either.list()).length, 2);
});

await t.test('events of both are one stream', async (t) => {
  const { either, hubs } = both();
  const stop = new AbortController();
  const seen: string[] = [];
  const events = either.events(stop.signal);
  const event = (uuid: string): HostEvent => ({ type: 'reboot', uuid, name: uuid });
  hubs.libvirt.emit(event(other));
  hubs.lockstep.emit(event(pair));
  for await (const e of events) {
    if (e.type === 'reboot') seen.push(e.uuid);
    if (seen.length === 2) break;
  }
  stop.abort();
  t.same(seen.sort(), [pair, other].sort());
});
