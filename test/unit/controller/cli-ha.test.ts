import { writeFile } from 'node:fs/promises';
import path from 'node:path';
import t from 'tap';
import { lab } from './cli-rig.js';
import { allLockstep, armed, haRig, keeper, lost, paired } from './ha-rig.js';

const secret = 'pa55-of-the-BMC';

void t.test('HA from the command line: one screen, switches that say what they mean', async (t) => {
  const l = await lab(haRig);
  t.teardown(() => l.stop());
  const { r } = l;
  const run = (...args: string[]) => l.run(...args);
  t.match(await run('ha', 'status'), { code: 0, out: /No VM has HA/ });
  t.match(await run('ha', 'failovers'), { code: 0, out: /There was no failover/ });
  const make = (name: string, ...more: string[]) =>
    run('vm', 'create', name, '--disk', 'size=1G,pool=shared', '--ha', 'on', '--node', 'n1', ...more);
  t.equal((await make('db', '--ha-priority', '90')).code, 0);
  t.equal((await make('web', '--ha-after', 'db', '--on-hang', 'reset', '--restarts-per-hour', '3')).code, 0);
  const db = await armed(r, 'db', 'n2');
  const show = await run('vm', 'show', 'web');
  t.match(show.out, /^HA +not protected: n1 has not taken it up yet$/m);
  t.match(show.out, /^HA rules +priority 50, when it hangs: reset, at most 3 restarts an hour$/m);
  t.match(show.out, /^Comes after +db$/m);
  t.match((await run('vm', 'show', 'db')).out, /^HA +protected\nOwner +n1\nStandby +n2$/m);
  t.match((await run('vm', 'list')).out, /^db +\w+ +n1 +standby n2/m);
  t.match(await run('vm', 'edit', 'db', '--ha-after', 'web'), { code: 2, err: /no beginning/ });
  t.match(await run('vm', 'edit', 'web', '--ha-after', 'db,,'), { code: 2, err: /without a name/ });
  t.equal((await run('vm', 'edit', 'web', '--ha-after', '')).code, 0);
  t.notMatch((await run('vm', 'show', 'web')).out, /Comes after/);

  t.match(await run('ha', 'pause'), {
    code: 0,
    out: 'HA is paused: no VM freezes and none fails over, until flotilla ha resume. 1 VM that was armed is being disarmed.\n',
  });
  t.match(await run('ha', 'pause'), { code: 0, out: /It was so already/ });
  t.match((await run('status')).out, /HA: is paused/);
  t.match(await run('ha', 'resume'), { code: 0, out: /HA is on again: 2 VMs are being armed/ });
  t.match(await run('ha', 'hold'), { code: 0, out: /stay down until flotilla ha release/ });
  t.match(await run('ha', 'release'), { code: 0, out: /by themselves again/ });
  t.match(await run('ha', 'allow-unsafe'), { code: 0, out: /may run twice/ });
  t.match((await run('ha', 'status')).out, /UNSAFE: nodes without watchdog may arm/);
  t.equal((await run('ha', 'forbid-unsafe')).code, 0);
  t.match(JSON.parse((await run('ha', 'status', '--json')).out), {
    policy: { ha: { hold: false } },
    protected: 1,
  });

  const id = '00000000-0000-4000-8000-0000000000f1';
  const phasesMs = { 'last-beat': 0, 'lease-gone': 2100, 'wait-over': 9200, owned: 9250, running: 12_300 };
  const args = { from: 'n1', to: 'n2', fence: 'bmc', atMs: Date.UTC(2026, 10, 23), phasesMs };
  const subject = { kind: 'vm', id: db.id, name: 'db' };
  const times = { createdMs: Date.now(), updatedMs: Date.now() };
  const op = { id, kind: 'vm.failover', subject, node: 'n2', askedBy: 'n2', args, state: 'done', ...times };
  r.memory.poke(
    `/flotilla/op/${id}`,
    JSON.stringify({ ...op, step: '', progress: 1, cancelAsked: false, error: null }),
  );
  await r.view.ledger.refresh('op');
  for (const out of [(await run('op', 'show', id)).out, (await run('vm', 'show', 'db')).out]) {
    t.match(out, /^Failover +n1 → n2, 2026-11-23 00:00:00 UTC$/m);
    t.match(out, /^ +9\.2 s +the fence wait is over \(\+7\.1 s\)$/m);
    t.match(out, /^ +12\.3 s +QEMU runs \(\+3\.\d s\)$/m);
  }
  t.match((await run('ha', 'failovers')).out, /db +n1 +n2 +12\.3 s +done/);
  const n2 = r.radio.nodes.get('n2');
  const held = [{ vm: db.id, why: 'frozen: its owner is not known' }];
  if (n2 !== undefined) n2.state = { ...n2.state, keeper: keeper({ mode: 'thaw', held }) };
  t.match((await run('node', 'show', 'n3')).out, /^Keeper +runs, watchdog hardware, 0 armed, would arm$/m);
  await lost(r, 'n1');
  const screen = (await run('ha', 'status')).out;
  t.match(
    screen,
    /Failovers that wait:\n +db: its owner n1 has lost its lease; its standby n2 takes it over/,
  );
  t.match(screen, /Last failovers:\n.* db: n1 → n2 in 12\.3 s \(its BMC says that it is off\)/);
  t.match(screen, /Frozen or killed by a keeper:\n +db on n2: frozen: its owner is not known/);
  t.match(screen, /^n2 +held +thaws +hardware +0 +1/m);
  t.match(screen, /^n1 +gone +not heard/m);
});

void t.test('fencing devices: the password comes from a file, and is nowhere else', async (t) => {
  const l = await lab(haRig);
  t.teardown(() => l.stop());
  const file = path.join(l.dir, 'password');
  await writeFile(file, `${secret}\n`);
  const set = (...more: string[]) =>
    l.run('node', 'bmc', 'set', 'n2', '--kind', 'ipmi', '--address', '10.0.9.1', '--user', 'fl', ...more);
  const all = [
    await set('--password-file', file, '--cipher', '3'),
    await l.run('node', 'bmc', 'show', 'n2'),
    await l.run('node', 'bmc', 'show', 'n2', '--json'),
  ];
  t.same(
    all.map((a) => a.code),
    [0, 0, 0],
  );
  t.match(all[0]?.out, 'n2 is powered off by its BMC 10.0.9.1 (ipmi) when it fails.');
  t.match(all[1]?.out, /^Cipher +3$/m);
  t.notMatch(all.map((a) => a.out + a.err).join('\n'), secret);
  const kept = () => JSON.parse(l.r.memory.peek('/flotilla/bmc/n2')?.value ?? '{}') as { password: string };
  t.equal(kept().password, secret, 'without its newline');
  l.stdin('other-secret');
  t.equal((await set('--password-file', '-')).code, 0);
  t.equal(kept().password, 'other-secret');
  const test = l.run('node', 'bmc', 'test', 'n2');
  const key = '/flotilla/bmc-test/n2';
  for (;;) {
    const e = l.r.memory.peek(key);
    if (e !== null) {
      const result = { by: 'n1', atMs: 1, power: 'on', machine: 'same', text: 'it is the BMC of n2' };
      l.r.memory.poke(key, JSON.stringify({ ...(JSON.parse(e.value) as object), result }));
      break;
    }
    await new Promise((done) => setTimeout(done, 20));
  }
  t.match(await test, { code: 0, out: /n2: it is the BMC of n2 \(asked by n1\)/ });
  t.match(await set('--password', secret), { code: 2 });
  t.match(await set(), { code: 2, err: /--password-file/ });
  l.stdin('\n');
  t.match(await set('--password-file', '-'), { code: 2, err: /no password/ });
  t.equal((await l.run('node', 'bmc', 'delete', 'n2')).code, 0);
  t.match(await l.run('node', 'bmc', 'show', 'n2'), { code: 3, err: /no fencing device/ });
});

void t.test('confirm-off asks for the name of the node, and says what may happen', async (t) => {
  const l = await lab(haRig);
  t.teardown(() => l.stop());
  const { r } = l;
  const run = (...args: string[]) => l.run(...args);
  await run('vm', 'create', 'db', '--disk', 'size=1G,pool=shared', '--ha', 'on', '--node', 'n1');
  await armed(r, 'db', 'n2');
  t.match(await run('node', 'confirm-off', 'n1', '--yes'), { code: 4, err: /is alive/ });
  await lost(r, 'n1');
  t.match(await run('node', 'confirm-off', 'n1'), { code: 2, err: /--yes/ });
  l.stdin('n2\n', true);
  t.match(await run('node', 'confirm-off', 'n1'), {
    code: 2,
    err: /run twice and destroy[^]*"n2" is not "n1"/,
  });
  l.stdin('', true);
  t.match(await run('node', 'confirm-off', 'n1'), { code: 2, err: /Nothing was changed/ });
  t.equal(r.memory.peek('/flotilla/fenced/n1'), null);
  l.stdin('n1\n', true);
  t.match(await run('node', 'confirm-off', 'n1'), {
    code: 0,
    out: 'n1 is taken for off. These VMs may now start elsewhere: db (on n2).\n',
  });
  t.not(r.memory.peek('/flotilla/fenced/n1'), null);
});

void t.test('protection from the command line: what each level is, and what is in the way', async (t) => {
  const l = await lab(haRig);
  t.teardown(() => l.stop());
  const { r } = l;
  const run = (...args: string[]) => l.run(...args);
  allLockstep(r);
  const disk = ['--disk', 'size=1G,pool=local,format=raw'];
  t.equal((await run('vm', 'create', 'web', ...disk, '--node', 'n1', '--cpus', '3')).code, 0);
  const check = await run('vm', 'protect', 'web');
  t.match(check, { code: 0, out: /^VM "web": protection is none\.$/m });
  t.match(check.out, /^restart: Restart \(HA\)$/m);
  t.match(check.out, /^lockstep \(experimental\): Lockstep \(FT\)$/m);
  t.match(check.out, /Not possible now:\n +it has 3 vCPUs; more than 2 were not tried\. Give it at most 2\./);
  t.notMatch((await run('vm', 'protect', 'web', 'lockstep', '--check')).out, /^restart/m);
  t.match(await run('vm', 'protect', 'web', 'restart'), { code: 4, err: /no other node reaches its disk/ });
  t.match(await run('vm', 'protect', 'web', 'lockstep'), { code: 4, err: /3 vCPUs/ });
  t.match(await run('vm', 'protect', 'web', 'twice'), { code: 2 });
  t.equal((await run('vm', 'edit', 'web', '--cpus', '1')).code, 0);
  t.match(await run('vm', 'protect', 'web', 'lockstep'), {
    code: 0,
    out: 'web: protection is lockstep.\n',
  });
  t.match((await run('vm', 'protect', 'web', 'lockstep', '--check')).out, /^ +Second node: n2: /m);
  await paired(r, 'web', 'n2');
  t.match((await run('vm', 'list')).out, /^web +\w+ +n1 +twin n2/m);
  const show = (await run('vm', 'show', 'web')).out;
  t.match(show, /^Protection +lockstep \(experimental\)\nHA +protected: its twin on n2 goes on if n1 dies$/m);
  t.match(show, /^Twin +n2$/m);
  t.match((await run('node', 'drain', 'n2', '--check')).out, /^web would get another twin on n3/m);
  t.match(await run('vm', 'protect', 'web', 'none'), {
    code: 0,
    out: 'web: protection is none. It comes with its next start.\n',
  });
  await paired(r, 'web', null);
  t.match((await run('vm', 'list')).out, /^web +running \(restart pending\) +n1 +lockstep, alone/m);
});
