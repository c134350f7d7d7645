import t from 'tap';
import { Lab, noTraces, waitFor } from '../lab/harness.js';

/** What drills on emulated machines stand on: power, cables, drives, DRBD of the real kernel, a watchdog that resets. */

const lab = new Lab({ kind: 'metal', id: 'rigtest' });
t.teardown(() => lab.down());

const pings = async (from: string, address: string): Promise<boolean> =>
  (await lab.exec(from, 'ping', '-c1', '-W2', address)).code === 0;
const bootOf = (node: string): Promise<string> => lab.sh(node, 'cat /proc/sys/kernel/random/boot_id');
const storage = (node: string): string => `10.79.200.${node.slice(1)}`;

await t.test('up: two machines with a kernel, drives and networks of their own', async (t) => {
  await lab.down(); // what an interrupted run may have left
  await lab.up(2);
  t.same(await lab.nodes(), ['n1', 'n2']);
  const [one, two] = await Promise.all(['n1', 'n2'].map(bootOf));
  t.not(one, two);
  t.equal((await lab.exec('n1', 'sh', '-c', 'exit 7')).code, 7, 'the exit code of a command arrives');
  t.equal(await lab.sh('n2', 'cat /sys/block/vdc/serial; wipefs -n /dev/vdc'), 'drive1');
  t.equal(await lab.sh('n1', 'systemctl list-units --failed --plain --no-legend'), '');
  await lab.sh('n1', 'echo seen >/srv/shared/file');
  t.equal(await lab.sh('n2', 'cat /srv/shared/file'), 'seen');
  t.ok(await pings('n1', lab.address('n2')));
});

await t.test('a cable cut in one direction, of one network', async (t) => {
  t.ok(await pings('n1', storage('n2')));
  await lab.cut('n1', 'n2', 'storage', 'one-way');
  t.notOk(await pings('n1', storage('n2')));
  t.ok(await pings('n1', lab.address('n2')), 'management is another network');
  const received = async (node: string): Promise<number> =>
    Number(await lab.sh(node, 'cat /sys/class/net/eth2/statistics/rx_packets'));
  const [before, other] = [await received('n1'), await received('n2')];
  await lab.exec('n2', 'ping', '-c3', '-W1', storage('n1'));
  t.ok((await received('n1')) >= before + 3, 'n1 hears n2');
  t.equal(await received('n2'), other, 'n2 hears nothing of n1');
  await lab.heal();
  await waitFor('an echo after healing', () => pings('n1', storage('n2')));
});

const pair = (node: string, peer: string): string => `
  pvcreate -q /dev/vdc >/dev/null; vgcreate -q vg /dev/vdc >/dev/null; lvcreate -q -L 1g -T vg/pool >/dev/null
  lvcreate -q -V 64m -T vg/pool -n r1 >/dev/null
  cat >/etc/drbd.d/r1.res <<'END'
resource r1 {
  net { protocol C; ping-int 5; ping-timeout 50; }
  device /dev/drbd1; disk /dev/vg/r1; meta-disk internal;
  on ${node} { address ${storage(node)}:7789; }
  on ${peer} { address ${storage(peer)}:7789; }
}
END
  modprobe drbd
  drbdadm -- --force create-md r1 >/dev/null 2>&1
  drbdadm up r1`;

await t.test(
  'DRBD of two thin volumes: what one acknowledged, the other has after its power loss',
  async (t) => {
    await Promise.all([lab.sh('n1', pair('n1', 'n2')), lab.sh('n2', pair('n2', 'n1'))]);
    const state = (node: string): Promise<string> => lab.sh(node, 'drbdadm cstate r1; drbdadm dstate r1');
    await waitFor('they are connected', async () => (await state('n1')).startsWith('Connected'));
    // Both are new and empty: nothing to copy.
    await lab.sh('n1', 'drbdadm -- --clear-bitmap new-current-uuid r1 && drbdadm primary r1');
    await waitFor('both are up to date', async () => (await state('n2')).endsWith('UpToDate/UpToDate'));
    const sum = await lab.sh(
      'n1',
      'dd if=/dev/urandom of=/tmp/data bs=64k count=16 status=none; dd if=/tmp/data of=/dev/drbd1 bs=64k oflag=direct,dsync status=none; sha256sum </tmp/data',
    );
    await lab.kill('n1');
    await waitFor('n2 misses it', async () => !(await state('n2')).startsWith('Connected'));
    await lab.sh('n2', 'drbdadm primary r1');
    t.equal(await lab.sh('n2', 'dd if=/dev/drbd1 bs=64k count=16 iflag=direct status=none | sha256sum'), sum);
    const pct = Number(await lab.sh('n2', 'lvs --noheadings -o data_percent vg/r1'));
    t.ok(pct > 0 && pct < 5, `1 MiB of 64 is written, and ${pct} % allocated`);
  },
);

await t.test(
  'a watchdog that is not fed any more resets its machine; one without power comes back',
  async (t) => {
    const before = await bootOf('n2');
    const identity = await lab.sh(
      'n2',
      'cat /sys/class/watchdog/watchdog0/identity /sys/class/watchdog/watchdog0/timeout',
    );
    t.same(identity.split('\n'), ['i6300ESB timer', '20']);
    await lab.sh('n2', 'echo armed >/dev/watchdog0');
    await lab.boot('n1');
    const after = await waitFor(
      'another boot of n2',
      async () => {
        const now = await bootOf('n2');
        return now !== before && now;
      },
      { everyMs: 1_000 },
    );
    t.match(after, /^[0-9a-f-]{36}$/);
    t.equal(
      await lab.sh('n1', 'sha256sum </etc/drbd.d/r1.res | wc -l'),
      '1',
      'what it had on its disk is there',
    );
  },
);

await t.test('down leaves nothing', async (t) => {
  await lab.down();
  t.same(await lab.traces(), noTraces);
});
