import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { stat, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import t from 'tap';
import { exitCodes } from '../../../controller/cli/exit.js';
import { lab } from './cli-rig.js';

const main = fileURLToPath(new URL('../../../controller/cli/main.js', import.meta.url));

/** The command line as its own process. */
function spawned(env: Record<string, string>, ...args: string[]) {
  const child = spawn(process.execPath, [main, ...args], { env, stdio: ['ignore', 'pipe', 'pipe'] });
  let err = '';
  child.stderr.on('data', (d) => (err += String(d)));
  let out = '';
  child.stdout.on('data', (d) => (out += String(d)));
  const ended = once(child, 'close').then(([code, signal]) => ({
    code: code as number | null,
    signal: signal as string | null,
    out,
    err,
  }));
  return { child, ended };
}

void t.test('a VM from the command line, with tables, JSON, a spec, and exit codes', async (t) => {
  const l = await lab();
  t.teardown(() => l.stop());
  t.match(await l.run('vm', 'list'), { code: 0, out: 'There are no VMs.\n' });
  t.match(
    await l.run(
      'network',
      'create',
      'lan',
      '--bridge',
      'lan0',
      '--subnet',
      '10.0.0.0/24',
      '--range',
      '10.0.0.10-10.0.0.20',
    ),
    { code: 0 },
  );
  const made = await l.run(
    'vm',
    'create',
    'web',
    '--memory',
    '2G',
    '--cpus',
    '2',
    '--size',
    '10G',
    '--nic',
    'lan',
    '--start',
  );
  t.match(made, { code: 0, out: /VM "web" is made on n1/ });
  const json = await l.run('vm', 'show', 'web', '--json');
  t.match(JSON.parse(json.out), {
    name: 'web',
    memoryMiB: 2048,
    diskBytes: 10 * 2 ** 30,
    addresses: ['10.0.0.10'],
  });
  t.match(await l.run('vm', 'edit', 'web', '--ha', 'on'), { code: 4, err: /disk0.*\(pool "local"\)/ });
  t.equal((await l.run('vm', 'edit', 'web', '--ha-priority', '80', '--restarts-per-hour', '2')).code, 0);
  t.match(await l.run('vm', 'edit', 'web', '--ha-after', 'web'), { code: 2, err: /itself/ });
  t.match(await l.run('vm', 'edit', 'web', '--ha', 'maybe'), { code: 2 });
  t.match((await l.run('vm', 'show', 'web')).out, /^HA +off: it does not come back by itself/m);
  const list = await l.run('vm', 'list');
  t.match(list.out, /^NAME +STATE +NODE/);
  t.match(list.out, /web +running +n1 +– +2 +2 GiB +10 GiB +10\.0\.0\.10/);

  l.stdin(
    'name: db\nmemory: 512M\ntags: [prod]\ndisks:\n  - name: data\n    size: 1G\nnics:\n  - network: lan\n',
  );
  t.match(await l.run('vm', 'create', '-f', '-'), { code: 0 });
  t.match(JSON.parse((await l.run('--json', 'vm', 'list', '--tag', 'prod')).out), [
    { name: 'db', memoryMiB: 512 },
  ]);
  t.match(await l.run('vm', 'edit', 'db', '--grow-disk', 'data=2G', '--note', 'hello'), {
    code: 0,
    out: /generation 2/,
  });
  t.match(await l.run('vm', 'stop', 'web'), { code: 0, out: /web/ });
  t.match(await l.run('vm', 'wait', 'web', '--for', 'stopped', '--timeout', '10s'), {
    code: 0,
    out: /stopped/,
  });
  t.match(await l.run('vm', 'wait', 'web', '--for', 'running', '--timeout', '0s'), {
    code: exitCodes.timedOut,
    err: /code: timeout/,
  });
  t.match(await l.run('vm', 'delete', 'web', 'db'), { code: 0 });

  t.match(await l.run('status'), { code: 0, out: /3 nodes/ });
  t.match(await l.run('node', 'list'), { code: 0, out: /n3 +here/ });
  t.match(await l.run('node', 'set', 'n3', '--desired', 'maintenance'), { code: 0 });
  t.match(await l.run('node', 'drain', 'n1', '--check'), { code: 0, out: /Node n1 can go/ });
  t.match(await l.run('node', 'drain', 'n1', '--no-wait'), { code: 0 });
  t.match(await l.run('node', 'active', 'n3'), { code: 0, out: /n3 is active/ });
  t.match(await l.run('pool', 'list'), { code: 0, out: /local +local +all/ });
  t.match(await l.run('op', 'list'), { code: 0, out: /vm\.delete/ });
  t.match(await l.run('events', '--kinds', 'node'), { code: 0, out: /3 nodes/ });
  const token = await l.run('token', 'create', 'more', '--kind', 'api');
  t.match(token.out, /^flt-api\.[a-z0-9]{8}\.[\w-]{43}\n$/);
  t.match(await l.run('token', 'list'), { code: 0, out: /more/ });
  t.match(await l.run('completion', 'bash'), { code: 0, out: /complete .*flotilla/ });
  t.match(await l.run('__complete', '--', 'vm', 'st'), { code: 0, out: /start\nstop/ });
  t.match(await l.run('completion', 'fish'), { code: 0, out: /complete -c flotilla/ });
  t.match(await l.run('__complete', '--', 'node', 'show', 'n'), { code: 0, out: 'n1\nn2\nn3\n' });
  t.match(await l.run('vm', 'create', 'talks', '--node', 'n2'), { code: 0 });
  for (const words of [['console'], ['export'], ['snapshot', 'list']])
    t.match(await l.run('__complete', '--', ...words, 'ta'), { code: 0, out: 'talks\n' }, words.join());
});

void t.test('exit codes and errors: what, why, what to do, the code', async (t) => {
  const l = await lab();
  t.teardown(() => l.stop());
  const cases: [string[], number, RegExp][] = [
    [['vm', 'shwo'], exitCodes.usage, /unknown command/],
    [['vm', 'create', 'x', '--cpus', 'two'], exitCodes.usage, /whole number/],
    [['vm', 'create', 'x', '--size', '10Q'], exitCodes.usage, /not a size/],
    [['vm', 'create', 'x', '--memory', '-1G'], exitCodes.usage, /./],
    [['vm', 'create'], exitCodes.usage, /no name/],
    [['vm', 'create', '-f', '/nonexistent'], exitCodes.usage, /cannot be read/],
    [['vm', 'edit', 'x'], exitCodes.usage, /Nothing is named/],
    [['vm', 'show', 'nope'], exitCodes.notFound, /There is no VM "nope"[\s\S]*hint: [\s\S]*code: not-found/],
    [
      ['vm', 'create', 'x', '--cpus', '200'],
      exitCodes.refused,
      /n1: needs 200 vCPUs[\s\S]*code: no-node-fits/,
    ],
    [
      ['vm', 'create', 'x', '--size', '10T'],
      exitCodes.refused,
      /10 TiB is larger than the pool "local" \(100 GiB\)/,
    ],
  ];
  for (const [args, code, err] of cases) t.match(await l.run(...args), { code, err }, args.join(' '));
  const json = await l.run('vm', 'show', 'nope', '--json');
  t.match(JSON.parse(json.err), { error: { code: 'not-found', hint: /./ } });
  t.equal(json.out, '', 'no answer beside an error');

  t.match(await l.run('vm', 'create', 'busy'), { code: 0 });
  l.r.agents.stuck.add('vm.start');
  t.match(await l.run('vm', 'start', 'busy', '--timeout', '1s'), {
    code: exitCodes.timedOut,
    err: /goes on without you/,
  });
  t.match(await l.run('vm', 'start', 'busy', '--no-wait'), { code: 0 });

  l.env['FLOTILLA_SERVER'] = 'https://127.0.0.1:1';
  t.match(await l.run('vm', 'list'), { code: exitCodes.unreachable, err: /No controller answers/ });
  l.env['FLOTILLA_SERVER'] = l.url;
  delete l.env['FLOTILLA_CA'];
  t.match(await l.run('vm', 'list'), { code: exitCodes.refused, err: /code: wrong-certificate/ });
  await writeFile(l.env['FLOTILLA_TOKEN_FILE'] ?? '', 'hunter2');
  const bad = await l.run('vm', 'list');
  t.match(bad, { code: exitCodes.usage, err: /API token/ });
  t.notMatch(bad.err, 'hunter2');
});

void t.test('login: the fingerprint must be known, the token is kept for its owner only', async (t) => {
  const l = await lab();
  t.teardown(() => l.stop());
  const token = l.env['FLOTILLA_TOKEN_FILE'] ?? '';
  const ca = l.env['FLOTILLA_CA'] ?? '';
  for (const k of ['FLOTILLA_SERVER', 'FLOTILLA_TOKEN_FILE', 'FLOTILLA_CA']) delete l.env[k];
  t.match(await l.run('vm', 'list'), { code: exitCodes.refused, err: /not logged in/ });
  const login = ['login', '--server', l.url, '--token-file', token];
  const asked = await l.run(...login);
  t.match(asked, { code: exitCodes.refused, err: /--fingerprint [0-9a-f]{64}/ });
  t.match(await l.run(...login, '--fingerprint', '0'.repeat(64)), {
    code: exitCodes.refused,
    err: /another fingerprint/,
  });
  const fingerprint = /--fingerprint ([0-9a-f]{64})/.exec(asked.err)?.[1] ?? '';
  t.match(await l.run(...login, '--fingerprint', fingerprint), { code: 0, out: /Logged in to test/ });
  const kept = path.join(l.dir, '.config/flotilla/login.json');
  t.equal((await stat(kept)).mode & 0o777, 0o600);
  t.match(await l.run('vm', 'list'), { code: 0 });
  t.match(await l.run(...login, '--ca', ca), { code: 0 });
});

void t.test('an upload whose command was killed goes on where it was, and arrives whole', async (t) => {
  const l = await lab();
  t.teardown(() => l.stop());
  const size = 24 * 1024 * 1024;
  const bytes = Buffer.alloc(size);
  for (let i = 0; i < size; i += 4096) bytes.writeUInt32LE(i, i);
  const file = path.join(l.dir, 'disk.qcow2');
  await writeFile(file, bytes);
  const first = spawned(l.env, 'image', 'import', file, 'big');
  // Slow the node, so that the kill hits the middle.
  const append = l.r.uploads.append.bind(l.r.uploads);
  let killed = false;
  let drained = (): void => undefined;
  const all = new Promise<void>((resolve) => (drained = resolve));
  l.r.uploads.append = async (node, id, o) => {
    if (killed || o.body === null) return append(node, id, o);
    const reader = o.body.getReader();
    let kept = l.r.uploads.files.get(id) ?? Buffer.alloc(0);
    for (;;) {
      const { done, value } = await reader.read().catch(() => ({ done: true, value: undefined }));
      if (done || value === undefined) {
        drained();
        return kept.length;
      }
      kept = Buffer.concat([kept, value]);
      l.r.uploads.files.set(id, kept);
      if (kept.length > 1024 * 1024 && !killed) {
        killed = true;
        first.child.kill('SIGKILL');
      }
    }
  };
  t.match(await first.ended, { signal: 'SIGKILL' });
  await all;
  const [id, part] = [...l.r.uploads.files][0] ?? ['', Buffer.alloc(0)];
  t.ok(part.length > 0 && part.length < size, `${part.length} bytes came`);
  const second = spawned(l.env, 'image', 'import', file, 'big');
  const end = await second.ended;
  t.match(end, { code: 0, out: /Image "big" is ready/, err: /Going on/ });
  t.ok(l.r.uploads.files.get(id)?.equals(bytes), 'every byte once');
  // Another file of that name is not taken for the same.
  await writeFile(file, 'other');
  t.match(await l.run('image', 'import', file, 'big'), { code: exitCodes.refused, err: /name-taken/ });
});

void t.test('Ctrl-C in mid-upload ends with a word; events end on Ctrl-C', async (t) => {
  const l = await lab();
  t.teardown(() => l.stop());
  const { child, ended } = spawned(l.env, 'events', '--follow', '--json');
  await once(child.stdout, 'data');
  child.kill('SIGINT');
  t.match(await ended, { code: 0, out: /"kind":"snapshot"/ });
});
