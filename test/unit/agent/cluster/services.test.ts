import { chmodSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import t from 'tap';
import { SystemdServices } from '../../../../agent/cluster/services.js';

/** Where systemd puts it, by its unit file. */
function sliceOf(unit: string): string {
  const text = readFileSync(`systemd/${unit}.service`, 'utf8');
  return /^Slice=(.+)$/m.exec(text)?.[1] ?? 'system.slice';
}

/** A cgroup tree, and a systemctl that says what it is told and writes down how it was asked. */
function setup(t: { testdir(): string; teardown(f: () => void): void }, says: string, code: number) {
  const dir = t.testdir();
  const unit = `${dir}/cgroup/${sliceOf('flotilla-etcd')}/flotilla-etcd.service`;
  mkdirSync(unit, { recursive: true });
  mkdirSync(`${dir}/bin`);
  writeFileSync(`${dir}/asked`, '');
  writeFileSync(`${dir}/bin/systemctl`, `#!/bin/sh\necho "$*" >>${dir}/asked\necho ${says}\nexit ${code}\n`);
  chmodSync(`${dir}/bin/systemctl`, 0o755);
  const before = process.env['PATH'];
  process.env['PATH'] = `${dir}/bin:${before ?? ''}`;
  t.teardown(() => (process.env['PATH'] = before));
  return {
    services: new SystemdServices(`${dir}/cgroup`),
    populated: (yes: 0 | 1) => writeFileSync(`${unit}/cgroup.events`, `populated ${yes}\nfrozen 0\n`),
    asked: () => readFileSync(`${dir}/asked`, 'utf8'),
  };
}

await t.test('a unit with a process is active, and systemctl is not run for it', async (t) => {
  const s = setup(t, 'inactive', 3);
  s.populated(1);
  t.equal(await s.services.active('flotilla-etcd'), true);
  t.equal(s.asked(), '');
  s.populated(0);
  t.equal(await s.services.active('flotilla-etcd'), false);
  t.equal(s.asked(), 'is-active flotilla-etcd.service\n');
});

await t.test('without a process, or where the cgroup is not found, systemd has the word', async (t) => {
  for (const [says, code, active] of [
    ['activating', 3, true],
    ['active', 0, true],
    ['failed', 3, false],
  ] as const) {
    await t.test(says, async (t) => {
      const s = setup(t, says, code);
      t.equal(await s.services.active('flotilla-etcd'), active);
      s.populated(0);
      t.equal(await s.services.active('flotilla-etcd'), active);
      t.equal(await s.services.active('flotilla-mosquitto'), active);
    });
  }
});
