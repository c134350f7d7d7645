import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { stat } from 'node:fs/promises';
import path from 'node:path';
import t from 'tap';
import { exitCodes, exitWords } from '../../../controller/cli/exit.js';
import { lab } from './cli-rig.js';
import { vmState } from './rig.js';

const l = await lab();
const { r } = l;
t.teardown(() => l.stop());
const env = l.env as Record<string, string | undefined>;

for (const [name, cpuPct] of [
  ['idle', 1],
  ['busy', 90],
] as const) {
  const made = (await r.call('POST', '/api/v1/vms', { name, node: 'n1', power: 'running' })).body as {
    vm: { id: string; generation: number };
  };
  await r.agents.look();
  const s = vmState({ ...made.vm, name }, 'n1', 'running');
  const stats = {
    atMs: 1,
    cpuPct,
    memoryUsedBytes: 100 * 2 ** 20,
    memoryBytes: 2 ** 30,
    diskReadBps: 0,
    diskWriteBps: 0,
    netRxBps: 0,
    netTxBps: 0,
  };
  r.radio.nodes.get('n1')?.vms.set(made.vm.id, { ...s, stats });
}
r.radio.news();

await t.test('flotilla top: the busiest first, once where nobody watches', async (t) => {
  const top = await l.run('top');
  t.equal(top.code, 0);
  t.match(top.out, /All is well[\s\S]*n1 +here[\s\S]*busy +n1 +running +0\.90[\s\S]*idle/);
  t.notMatch(top.out, '\u001b');
  t.match((await l.run('top', '--sort', 'name')).out, /busy[\s\S]*idle/);
  const json = JSON.parse((await l.run('top', '--json')).out) as { vms: { name: string }[] };
  t.same(
    json.vms.map((v) => v.name),
    ['busy', 'idle'],
  );
  t.equal((await l.run('top', '--sort', 'colour')).code, exitCodes.usage);
});

await t.test('flotilla wait: for the cluster, a node, a VM; exit codes say how it ended', async (t) => {
  t.match(await l.run('wait', 'cluster'), { code: 0, out: /All is well/ });
  t.match(await l.run('wait', 'node', 'n3', '--for', 'empty'), { code: 0, out: /n3: here/ });
  t.match(await l.run('wait', 'vm', 'busy'), { code: 0, out: /running/ });
  t.match(await l.run('wait', 'node', 'n1', '--for', 'empty', '--timeout', '1s'), {
    code: exitCodes.timedOut,
    err: /did not come to "empty" within 1s.*2 VMs/,
  });
  t.equal((await l.run('wait', 'node', 'n9')).code, exitCodes.notFound);
  t.match(await l.run('wait', 'node', 'n9', '--for', 'gone'), { code: 0 });
  const stop = new AbortController();
  const waits = l.runUntil(stop.signal, 'wait', 'vm', 'idle', '--for', 'stopped');
  await r.call('POST', '/api/v1/vms/idle/actions/force-stop');
  t.match(await waits.done, { code: 0, out: /stopped/ });
});

await t.test('several clusters, each with its own login', async (t) => {
  const { FLOTILLA_SERVER: url, FLOTILLA_TOKEN_FILE: token, FLOTILLA_CA: ca } = l.env;
  t.teardown(() => Object.assign(env, { FLOTILLA_SERVER: url, FLOTILLA_TOKEN_FILE: token, FLOTILLA_CA: ca }));
  const login = ['login', '--server', url ?? '', '--token-file', token ?? '', '--ca', ca ?? ''];
  t.equal((await l.run('--context', 'paris', ...login)).code, 0);
  for (const k of ['FLOTILLA_SERVER', 'FLOTILLA_TOKEN_FILE', 'FLOTILLA_CA']) delete env[k];
  const file = path.join(l.dir, '.config/flotilla/contexts/paris.json');
  t.equal((await stat(file)).mode & 0o777, 0o600);
  t.match(await l.run('status'), { code: exitCodes.refused, err: /not logged in/ });
  t.match(await l.run('--context', 'paris', 'status'), { code: 0, out: /All is well|2 VMs/ });
  t.match(await l.run('context', 'use', 'rome'), { code: exitCodes.notFound, err: /There is: paris/ });
  t.equal((await l.run('context', 'use', 'paris')).code, 0);
  t.equal((await l.run('status')).code, 0);
  t.match((await l.run('context', 'list')).out, /\* +paris +https:/);
  t.match((await l.run('__complete', '--', 'context', 'use', 'p')).out, /^paris$/m);
  t.equal((await l.run('--context', '../../etc/x', 'status')).code, exitCodes.usage, 'a name is no path');
  t.equal((await l.run('context', 'delete', 'paris')).code, 0);
  t.notOk(existsSync(file));
  t.match(await l.run('context', 'list'), { code: 0, out: /logged in nowhere/ });
});

await t.test('the manual has every command and option, and nothing in it commands roff', async (t) => {
  const { out } = await l.run('man');
  const plain = out.replaceAll('\\-', '-').replaceAll(/\\f[BIR]/g, '');
  for (const words of [
    '.SS flotilla vm create [name]',
    '.SS flotilla node history <node>'.replace('<node>', 'node'),
    '.SS flotilla wait cluster',
    '--ssh-key <file>',
    'FLOTILLA_CONTEXT',
  ])
    t.ok(plain.includes(words), words);
  t.notMatch(plain, /__complete/);
  for (const code of Object.values(exitCodes)) t.ok(exitWords[code], `exit code ${code} is in it`);
  for (const line of out.split('\n').filter((x) => /^[.']/.test(x))) t.match(line, /^\.(TH|SH|SS|TP)\b/);
  // Where there is a groff, it has no complaint.
  const groff = ['/usr/bin/groff'].find((f) => existsSync(f));
  if (groff === undefined) return;
  const made = spawnSync(groff, ['-man', '-Tutf8', '-ww'], { input: out, encoding: 'utf8' });
  t.match(made, { status: 0, stdout: /flotilla - one virtual datacenter/ });
  t.notMatch(made.stderr, /warning: (?!.*cannot adjust)/);
});
