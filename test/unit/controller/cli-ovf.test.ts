import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { Readable } from 'node:stream';
import t from 'tap';
import { runCli } from '../../../controller/cli/program.js';
import type { Ran } from './cli-rig.js';

/** The command line with no cluster anywhere. */
async function run(...args: string[]): Promise<Ran> {
  let out = '';
  let err = '';
  const code = await runCli(args, {
    env: { HOME: '/nonexistent' },
    out: (s) => (out += `${s}\n`),
    err: (s) => (err += s),
    write: () => undefined,
    width: null,
    tty: false,
    stdin: Readable.from([]),
    signal: new AbortController().signal,
  });
  return { code, out, err };
}

const file = 'test/fixtures/ovf/three-tier.ovf';

void t.test('a package is shown to people and to programs, without a cluster', async (t) => {
  const text = await run('ovf', 'inspect', file);
  t.match(text, { code: 0, err: '' });
  for (const expected of [
    /package +Shop \(OVF, OVF 1\.1\.0\)/,
    /SYSTEM +CPUS +MEMORY/,
    /Database +2 +2 GiB +8 GiB virtio, 20 GiB virtio +back \(vmxnet3\) +bios/,
    /web +1 +512 MiB .* uefi, TPM/,
    / 1 +database +for the guest, at most 120 s +guestShutdown/,
    /org\.example\.shop\.admin +string +\(secret\) +yes/,
    /option usual \(shown\): Usual: database 2 CPUs 2048 MiB/,
    /licence: You may use it\./,
    /! line 8: the file "base\.vmdk" is not in the package/,
  ])
    t.match(text.out, expected);
  const json = await run('ovf', 'inspect', file, '--deployment-option', 'big', '--json');
  t.match(json, { code: 0, err: '' });
  const report = JSON.parse(json.out) as Record<string, { xml?: string }[]>;
  t.match(report, {
    configuration: 'big',
    systems: [{ id: 'database', cpus: 8 }, { id: 'application' }, { id: 'web' }],
    networks: [{ name: 'front' }, { name: 'back' }],
    startOrder: { length: 4 },
  });
  t.equal(report['kept']?.[0]?.xml, undefined);
  t.notMatch(text.out + json.out, 'changeme');
});

void t.test('an invalid one ends with its reason, file and line', async (t) => {
  const dir = await mkdtemp(path.join(tmpdir(), 'flotilla-cli-ovf-'));
  t.teardown(() => rm(dir, { recursive: true, force: true }));
  const bad = path.join(dir, 'bad.ovf');
  await writeFile(bad, '<?xml version="1.0"?>\n<Envelope\n');
  t.match(await run('ovf', 'inspect', bad), {
    code: 2,
    out: '',
    err: /bad\.ovf line \d+: it is not well-formed XML/,
  });
  const json = await run('ovf', 'inspect', bad, '--json');
  t.match(json, { code: 2, out: '' });
  t.match(JSON.parse(json.err), { error: { code: 'bad-input', details: { file: 'bad.ovf' } } });
  t.match(await run('ovf', 'inspect', path.join(dir, 'none.ova')), { code: 2, err: /cannot be read/ });
  t.match(await run('ovf', 'inspect', file, '--deployment-option', 'x'), {
    code: 2,
    err: /There are: small, usual, big/,
  });
});
