import { writeFile } from 'node:fs/promises';
import { existsSync } from 'node:fs';
import t from 'tap';
import { sessionFile } from '../../../controller/cli/session.js';
import { lab } from './cli-rig.js';
import { totpAt } from '../../../agent/pki/totp.js';
import { callApp } from './rig.js';
import { password, session } from './people.js';

void t.test('people by the command line: made, logged in, given rights, taken away', async (t) => {
  const l = await lab();
  t.teardown(() => l.stop());
  const file = `${l.dir}/password`;
  await writeFile(file, `${password('vera')}\n`);
  t.match(await l.run('vm', 'create', 'web', '--node', 'n1'), { code: 0 });
  t.match(await l.run('user', 'create', 'vera', '--password-file', file, '--operates', 'web'), {
    code: 0,
    out: 'vera: made, viewer\n',
  });
  t.match(await l.run('user', 'list'), { code: 0, out: /vera +viewer \(operates 1 VMs\) +no +enabled/ });
  t.match(await l.run('whoami'), { code: 0, out: 'admin: admin\n' });

  // Another home, whose session is of a login.
  const env = l.env as Record<string, string | undefined>;
  delete env['FLOTILLA_TOKEN_FILE'];
  const login = ['login', '--server', l.url, '--ca', `${l.dir}/ca.crt`, '--user', 'vera'];
  await writeFile(`${l.dir}/wrong`, 'wrong');
  t.match(await l.run(...login, '--password-file', `${l.dir}/wrong`), {
    code: 4,
    err: /code: login-refused/,
  });
  t.match(await l.run(...login), { code: 2, err: /no terminal to ask/ });
  t.match(await l.run('login', '--server', l.url), { code: 2, err: /Say who logs in/ });
  l.stdin(`${password('vera')}\n`);
  t.match(await l.run(...login, '--password-file', '-'), { code: 0, out: /Logged in/ });
  t.match(await l.run('--json', 'whoami'), { code: 0, out: /"via": "session"/ });
  t.match(await l.run('vm', 'list'), { code: 0, out: /web/ });
  t.match(await l.run('vm', 'create', 'no'), { code: 4, err: /for the role operator; yours is viewer/ });
  t.match(await l.run('vm', 'edit', 'web', '--note', 'mine'), { code: 0 });
  t.match(await l.run('user', 'list'), { code: 4, err: /code: forbidden/ });
  t.match(await l.run('token', 'create', 'k', '--kind', 'api', '--role', 'admin'), { code: 4 });
  t.match(await l.run('token', 'create', 'k', '--kind', 'api'), { code: 0, out: /^flt-api/ });
  t.match(await l.run('token', 'list'), { code: 0, out: /k +api +viewer/ });

  await writeFile(`${l.dir}/next`, 'a longer password\n');
  t.match(await l.run('password', '--old-file', file, '--new-file', `${l.dir}/next`), { code: 0 });
  t.match(await l.run('whoami'), { code: 0 }, 'this session goes on');
  // The second factor, by the API: the command asks for the code at a terminal.
  const { r } = l;
  const s = (
    await callApp(r.app, null, 'POST', '/api/v1/login', { user: 'vera', password: 'a longer password' })
  ).body as { token: string };
  const fresh = (await callApp(r.app, s.token, 'GET', '/api/v1/me/second-factor')).body as { secret: string };
  const step = Math.floor(Date.now() / 30_000);
  const on = { password: 'a longer password', secret: fresh.secret, code: totpAt(fresh.secret, step) };
  t.match(await callApp(r.app, s.token, 'PUT', '/api/v1/me/second-factor', on), { status: 200 });
  const again = [...login, '--password-file', `${l.dir}/next`];
  t.match(await l.run(...again), { code: 4, err: /code: code-wanted/ });
  t.match(await l.run(...again, '--code', totpAt(fresh.secret, step + 1)), { code: 0 });
  t.match(await l.run('second-factor', 'off', '--password-file', `${l.dir}/next`), {
    code: 0,
    out: /is off/,
  });

  t.match(await l.run('logout'), { code: 0 });
  t.equal(existsSync(await sessionFile(l.env)), false);
  t.match(await l.run('whoami'), { code: 4, err: /not logged in/ });
  env['FLOTILLA_TOKEN_FILE'] = `${l.dir}/token`;
  t.match(await l.run('user', 'edit', 'vera', '--role', 'operator', '--operates', ''), { code: 0 });
  t.match(await l.run('user', 'show', 'vera'), { out: /operator[^]*nothing beyond/ });
  t.match(await l.run('user', 'edit', 'vera', '--disable'), { out: /disabled/ });
  await t.rejects(session(r, 'vera'));
  t.match(await l.run('user', 'delete', 'vera'), { code: 0 });
  t.match(await l.run('user', 'show', 'vera'), { code: 3, err: /There is no user "vera"/ });
});
