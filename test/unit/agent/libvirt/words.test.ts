import t from 'tap';
import { hostEvent } from '../../../../agent/libvirt/host-events.js';
import { jobProgress, jobResult } from '../../../../agent/libvirt/job-stats.js';
import { commandText } from '../../../../agent/libvirt/libvirt-hypervisor.js';
import { migrateFlags, migrateParams } from '../../../../agent/libvirt/migration.js';
import type { TypedParam } from '../../../../agent/libvirt/protocol.js';
import { domainState, lifecycleChange } from '../../../../agent/libvirt/words.js';
import { elementAttribute, elementText } from '../../../../agent/libvirt/xml-facts.js';

const domain = { name: 'vm', uuid: '0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9', id: 3 };
const of = { name: domain.name, uuid: domain.uuid };

await t.test('states and reasons; what a newer daemon adds reads unknown', async (t) => {
  t.same(domainState(1, 1), { state: 'running', reason: 'booted' });
  t.same(domainState(3, 14), { state: 'paused', reason: 'api-error' });
  t.same(domainState(4, 1), { state: 'shutting-down', reason: 'user' });
  t.same(domainState(5, 8), { state: 'shut-off', reason: 'daemon' });
  t.same(domainState(6, 1), { state: 'crashed', reason: 'panicked' });
  t.same(domainState(1, 99), { state: 'running', reason: 'unknown' });
  t.same(domainState(99, 1), { state: 'unknown', reason: 'unknown' });
  t.same(lifecycleChange(5, 3), { event: 'stopped', detail: 'migrated' });
  t.same(lifecycleChange(5, 99), { event: 'stopped', detail: 'unknown' });
  t.same(lifecycleChange(99, 0), { event: 'unknown', detail: 'unknown' });
});

await t.test('events in our words', async (t) => {
  const callbackId = 1;
  t.same(hostEvent({ kind: 'balloonChange', body: { callbackId, domain, actualKiB: 65536n } }), {
    type: 'balloon-change',
    ...of,
    actualKiB: 65536,
  });
  t.same(hostEvent({ kind: 'deviceRemovalFailed', body: { callbackId, domain, alias: 'net0' } }), {
    type: 'device-removal-failed',
    ...of,
    alias: 'net0',
  });
  t.same(hostEvent({ kind: 'agentLifecycle', body: { callbackId, domain, state: 2, reason: 1 } }), {
    type: 'agent-lifecycle',
    ...of,
    state: 'disconnected',
    reason: 'domain-started',
  });
  t.same(hostEvent({ kind: 'watchdog', body: { callbackId, domain, action: 77 } }), {
    type: 'watchdog',
    ...of,
    action: 'unknown',
  });
});

await t.test('figures of a job', async (t) => {
  const params: TypedParam[] = [
    { field: 'time_elapsed', type: 'ullong', value: 1200n },
    { field: 'data_total', type: 'ullong', value: 1000n },
    { field: 'data_remaining', type: 'ullong', value: 250n },
    { field: 'memory_iteration', type: 'ullong', value: 3n },
    { field: 'errmsg', type: 'string', value: 'none' },
  ];
  t.same(jobProgress(params), {
    phase: 'copying',
    fraction: 0.75,
    elapsedMs: 1200,
    totalBytes: 1000,
    remainingBytes: 250,
    memoryIteration: 3,
  });
  t.same(jobProgress([]), { phase: 'preparing', fraction: 0 });
  t.same(jobResult(params), { totalMs: 1200 });
});

await t.test('a migration as flags and parameters', async (t) => {
  t.equal(migrateFlags({ mode: 'paused' }), 0);
  t.equal(migrateFlags({ mode: 'live' }), 0b1);
  t.equal(migrateFlags({ mode: 'post-copy' }), 0b1 | (1 << 15));
  t.equal(
    migrateFlags({
      mode: 'live',
      tls: true,
      leavePaused: true,
      persistDest: true,
      undefineSource: true,
      copyDisks: ['vda'],
    }),
    0b1 | (1 << 16) | (1 << 5) | (1 << 3) | (1 << 4) | (1 << 6),
  );
  t.equal(migrateFlags({ mode: 'live', copyDisks: [] }), 0b1);
  t.same(
    migrateParams(
      { uri: 'qemu+tls://n2/system', migrateUri: 'tcp://10.0.0.2' },
      { mode: 'live', copyDisks: ['vda', 'vdb'], bandwidthMiBps: 5 },
    ),
    [
      { field: 'migrate_uri', type: 'string', value: 'tcp://10.0.0.2' },
      { field: 'migrate_disks', type: 'string', value: 'vda' },
      { field: 'migrate_disks', type: 'string', value: 'vdb' },
      { field: 'bandwidth', type: 'ullong', value: 5n },
    ],
  );
});

await t.test('facts out of XML', async (t) => {
  const xml = `<a><uuid>x &amp; y</uuid><vcpu max='255'/><machine canonical="q">pc &lt;1&gt;</machine></a>`;
  t.equal(elementText(xml, 'uuid'), 'x & y');
  t.equal(elementText(xml, 'machine'), 'pc <1>');
  t.equal(elementAttribute(xml, 'vcpu', 'max'), '255');
  t.throws(() => elementText(xml, 'nothing'), { code: 'protocol' });
  t.throws(() => elementAttribute(xml, 'vcpu', 'min'), { code: 'protocol' });
});

await t.test('commands for QEMU and the guest agent are plain ASCII', async (t) => {
  t.equal(commandText('guest-ping', undefined), '{"execute":"guest-ping"}');
  const text = commandText('x', { a: 'ä😀' });
  t.match(text, /^[\x20-\x7e]*$/);
  t.same(JSON.parse(text), { execute: 'x', arguments: { a: 'ä😀' } });
});
