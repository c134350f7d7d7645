import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import t from 'tap';
import { exitCodeOf } from '../../../controller/cli/exit.js';
import { pairs } from '../../../controller/cli/input.js';
import { checkServer } from '../../../controller/cli/session.js';
import { cells, table } from '../../../controller/cli/table.js';
import { readClusterFile, readControllerConfig } from '../../../controller/config.js';
import { journal } from '../../../controller/system.js';
import { version } from '../../../controller/version.js';
import { armed, haRig, made } from './ha-rig.js';
import { GiB } from './rig.js';
import { errorStatus, FlotillaError, type ErrorCode } from '../../../core/domain/error.js';

void t.test('configuration: none is all defaults; a wrong one is refused by name', async (t) => {
  const dir = await mkdtemp(path.join(tmpdir(), 'flotilla-config-'));
  t.teardown(() => rm(dir, { recursive: true }));
  const file = path.join(dir, 'controller.json');
  t.match(await readControllerConfig(file), { port: 8443, stateDir: '/var/lib/flotilla' });
  await writeFile(file, '{"port": 9000}');
  t.match(await readControllerConfig(file), { port: 9000 });
  await writeFile(file, '{"prot": 9000}');
  await t.rejects(readControllerConfig(file), { code: 'unknown-field', message: /controller\.json/ });
  await writeFile(file, '{');
  await t.rejects(readControllerConfig(file), { code: 'bad-input' });
  t.equal(await readClusterFile(dir), null, 'a node in no cluster yet');
  await writeFile(path.join(dir, 'cluster.json'), '{}');
  await t.rejects(readClusterFile(dir), { code: 'bad-input' });
});

void t.test('the version is that of the package', async (t) => {
  const text = await readFile(path.resolve('package.json'), 'utf8');
  t.equal(version, (JSON.parse(text) as { version: string }).version);
});

void t.test('a log line is one line with its priority', (t) => {
  const lines: string[] = [];
  journal((l) => lines.push(l)).warn('two\nlines', { a: 1 });
  t.same(lines, ['<4>two / lines {"a":1}\n']);
  t.end();
});

void t.test('tables fit the terminal, and nothing in them commands it', (t) => {
  const rows = [
    { a: 'short', b: 'a very long text that may be cut', n: '1' },
    { a: 'x\u001b[2J\ny', b: '', n: '100' },
  ];
  const columns = [
    { head: 'A', text: (r: (typeof rows)[0]) => r.a },
    { head: 'N', text: (r: (typeof rows)[0]) => r.n, right: true as const },
    { head: 'B', text: (r: (typeof rows)[0]) => r.b, give: 1 },
  ];
  const wide = table(rows, columns, null);
  t.equal(wide.split('\n').length, 3);
  // eslint-disable-next-line no-control-regex -- exactly these must not come out
  t.notMatch(wide, /[\u0000-\u0009\u001b]/);
  t.match(wide, /short +1 {2}a very long text that may be cut/);
  for (const width of [10, 20, 30, 40])
    for (const line of table(rows, columns, width).split('\n'))
      t.ok(cells(line) <= Math.max(width, 12), `${width}: ${line}`);
  t.match(table(rows, columns, 30), '…');
  t.notMatch(table(rows, columns, 14), 'long');
  t.equal(cells('日本e\u0301'), 5);
  t.end();
});

void t.test('servers and specs of the command line', (t) => {
  t.equal(checkServer('n1'), 'https://n1:8443');
  t.equal(checkServer('https://n1:443/'), 'https://n1');
  t.equal(checkServer('https://n1:9000/x'), 'https://n1:9000');
  for (const bad of ['http://n1', 'https://u:p@n1', '://', ''])
    t.throws(() => checkServer(bad), { code: 'bad-input' }, bad);
  t.same(pairs('10G,pool=fast', 'size', ['size', 'pool']), { size: '10G', pool: 'fast' });
  for (const bad of ['10G,fast', 'pool=a,pool=b', 'wat=1', '10G,wat=1'])
    t.throws(() => pairs(bad, 'size', ['size', 'pool']), { code: 'bad-input' }, bad);
  t.end();
});

void t.test('every code has an exit code, none of them success', (t) => {
  for (const code of Object.keys(errorStatus) as ErrorCode[]) {
    const exit = exitCodeOf(new FlotillaError(code, 'x', { hint: 'y' }));
    t.ok(exit >= 1 && exit <= 6, `${code}: ${exit}`);
  }
  t.equal(exitCodeOf(new Error('x')), 1);
  t.end();
});

void t.test('the first sentence says what is protected and whether a node may fail', async (t) => {
  const r = await haRig();
  t.teardown(() => r.stop());
  const sentence = async (): Promise<string> =>
    ((await r.call('GET', '/api/v1/cluster')).body as { sentence: string }).sentence;
  t.equal(await sentence(), 'All is well: 3 nodes, no VMs yet.');
  const disks = [{ name: 'root', sizeBytes: GiB, pool: 'shared' }];
  const lan = (await r.call('POST', '/api/v1/networks', { name: 'lan', bridge: 'br-lan' })).body as {
    id: string;
  };
  await made(r, { name: 'db', node: 'n1', disks, ha: { enabled: true }, nics: [{ network: 'lan' }] });
  await armed(r, 'db', 'n2');
  t.equal(await sentence(), 'All is well: 3 nodes, 1 VM, 1 running, all protected; any one node may fail.');
  await made(r, { name: 'plain', node: 'n3' });
  t.match(await sentence(), /2 VMs, 1 running, 1 protected; any one node may fail/);
  const on = async (network: string): Promise<unknown> =>
    (await r.call('GET', `/api/v1/vms?network=${network}`)).body;
  t.match(await on('lan'), { total: 1, items: [{ name: 'db' }] });
  t.match(await on(lan.id), { total: 1 });
  t.match(await on('nope'), { code: 'not-found' });
});
