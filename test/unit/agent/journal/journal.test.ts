import { spawn } from 'node:child_process';
import { appendFile, mkdir, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import path from 'node:path';
import t from 'tap';
import { FileJournal, formerMax } from '../../../../agent/journal/journal.js';
import { journalFile, parseJournal, readJournal } from '../../../../agent/journal/read.js';
import { journalEntrySchema } from '../../../../core/domain/ha.js';
import { entry, vmId } from './writer.js';

const dir = t.testdir();
let files = 0;
const fresh = (): string => path.join(dir, `journal-${files++}`);
const opened = async (file: string): Promise<FileJournal> => {
  const j = new FileJournal(file);
  await j.start();
  return j;
};
const lines = async (file: string): Promise<string[]> =>
  (await readFile(file, 'utf8')).split('\n').filter((l) => l !== '');

await t.test('what was recorded is read again, the highest epoch and generation of each VM', async (t) => {
  const file = fresh();
  const j = await opened(file);
  await j.record(entry(1, 3));
  await j.record(entry(1, 4, { role: 'none', owner: 'n2' }));
  await j.record(entry(2, 9));
  await j.record(entry(2, 2, { epoch: 2 }));
  await j.record(entry(1, 2));
  const read = await readJournal(file);
  t.same(read.last.get(vmId(1)), entry(1, 4, { role: 'none', owner: 'n2' }));
  t.same(
    read.last.get(vmId(2)),
    entry(2, 2, { epoch: 2 }),
    'a later epoch is later, whatever its generation',
  );
  t.equal(read.lines, 5);
  t.same([...read.last.values()].map((e) => journalEntrySchema.parse(e)).length, 2);
  t.same((await opened(file)).entries().length, 2);
  t.equal((await stat(file)).mode & 0o777, 0o600);
  t.equal(journalFile('/var/lib/flotilla'), '/var/lib/flotilla/journal');
});

await t.test('saying the same again writes nothing', async (t) => {
  const file = fresh();
  const j = await opened(file);
  await Promise.all([j.record(entry(1, 3)), j.record(entry(1, 3))]);
  await j.record(entry(1, 3));
  const again = await opened(file);
  await again.record({ epoch: 1, owner: 'n1', role: 'owner', gen: 3, vm: vmId(1) });
  t.equal((await lines(file)).length, 1);
  await again.record(entry(1, 3, { role: 'standby' }));
  t.equal((await lines(file)).length, 2, 'another role of the same generation is something else');
});

await t.test('a torn end is dropped where it is half, and kept where it is whole', async (t) => {
  const half = fresh();
  await writeFile(half, `${JSON.stringify(entry(1, 3))}\n${JSON.stringify(entry(2, 5)).slice(0, 40)}`);
  let j = await opened(half);
  t.equal(j.state().unreadable, 0);
  await j.record(entry(3, 1));
  t.same((await readJournal(half)).unreadable, []);
  t.same([...(await readJournal(half)).last.keys()].sort(), [vmId(1), vmId(3)].sort());

  const whole = fresh();
  await writeFile(whole, `${JSON.stringify(entry(1, 3))}\n${JSON.stringify(entry(2, 5))}`);
  t.equal((await readJournal(whole)).last.size, 2);
  j = await opened(whole);
  await j.record(entry(3, 1));
  t.equal((await readJournal(whole)).last.size, 3);
  t.same((await readJournal(whole)).unreadable, []);
});

await t.test('lines that nobody can read are counted, kept, and harm no other', async (t) => {
  const file = fresh();
  const bad = [
    '\0\0\0',
    '{"vm":"x"}',
    'null',
    '[1]',
    JSON.stringify(entry(4, 0)),
    JSON.stringify({ ...entry(4, 1), role: 'king' }),
  ];
  await writeFile(file, [JSON.stringify(entry(1, 3)), ...bad, JSON.stringify(entry(2, 4)), ''].join('\n'));
  const j = await opened(file);
  t.equal(j.state().unreadable, bad.length);
  t.equal(j.entries().length, 2);
  for (let gen = 1; gen < 1_300; gen++) void j.record(entry(1, 10 + gen));
  await j.record(entry(5, 1));
  t.equal((await readJournal(file)).unreadable.length, bad.length, 'also after it was written anew');
});

await t.test('the file stays short, and what it says stays', async (t) => {
  const file = fresh();
  const j = await opened(file);
  let most = 0;
  for (let gen = 1; gen <= 40; gen++) {
    await Promise.all(Array.from({ length: 60 }, (_, n) => j.record(entry(n, gen))));
    most = Math.max(most, (await lines(file)).length);
  }
  t.ok(most <= 60 + 1_060, `${most} lines at most`);
  const { last } = await readJournal(file);
  t.same(
    [...last.values()].map((e) => e.gen),
    Array(60).fill(40),
  );
  t.same(
    (await readdir(dir)).filter((f) => f.startsWith('.journal')),
    [],
    'no temporary file is left',
  );
});

await t.test(
  'VMs it has nothing to do with any more are forgotten, the oldest first; owned ones never',
  async (t) => {
    const file = fresh();
    const of = (n: number): string =>
      JSON.stringify(entry(n, 1, n < 10 ? {} : { role: 'none', owner: 'n2' }));
    const n = formerMax + 200;
    await writeFile(
      file,
      Array.from({ length: n }, (_, i) => `${of(i)}\n`)
        .join('')
        .repeat(2),
    );
    const j = await opened(file);
    t.equal(j.entries().length, formerMax + 10);
    const { last } = await readJournal(file);
    t.ok(last.has(vmId(0)) && last.has(vmId(9)) && last.has(vmId(n - 1)));
    t.notOk(last.has(vmId(10)));
  },
);

await t.test('a disk that refuses is an error to whoever asked, and is made good later', async (t) => {
  const parent = path.join(dir, 'refusing');
  await mkdir(parent);
  const file = path.join(parent, 'journal');
  const j = await opened(file);
  await j.record(entry(1, 1));
  // Works for root too: a directory is where the file was.
  await rm(file);
  await mkdir(file);
  await t.rejects(j.record(entry(1, 2)), { code: 'internal', message: /cannot be written/ });
  t.match(j.state().failure, /EISDIR/);
  await rm(file, { recursive: true });
  await j.record(entry(2, 1));
  t.equal(j.state().failure, null);
  t.same([...(await readJournal(file)).last.keys()].sort(), [vmId(1), vmId(2)].sort());
  t.equal((await readJournal(file)).last.get(vmId(1))?.gen, 1, 'what was refused was not recorded');
});

await t.test('a journal that cannot be read is no empty one', async (t) => {
  const file = fresh();
  await mkdir(file);
  await t.rejects(opened(file), { code: 'EISDIR' });
  await t.rejects(readJournal(file), { code: 'EISDIR' });
  const j = new FileJournal(file);
  await t.rejects(j.record(entry(1, 1)), { code: 'internal' });
  t.throws(() => j.entries(), { code: 'unreadable-record' });
  await rm(file, { recursive: true });
  await j.record(entry(1, 1));
  t.same(j.entries(), [entry(1, 1)], 'it is tried again');
});

await t.test('cut at any byte it is read: whole entries before the cut, nothing else', async (t) => {
  const all = [entry(1, 1), entry(2, 7), entry(1, 2)].map((e) => JSON.stringify(e));
  const bytes = Buffer.from(all.map((l) => `${l}\n`).join(''));
  for (let cut = 0; cut <= bytes.length; cut++) {
    const read = parseJournal(bytes.subarray(0, cut));
    if (read.unreadable.length > 0) t.fail(`cut at ${cut}: a torn end was taken for a line`);
    const ends = all.map((_, i) => all.slice(0, i + 1).join('\n').length);
    const whole = ends.filter((end) => cut >= end).length;
    if (read.lines !== whole) t.fail(`cut at ${cut}: ${read.lines} lines, not ${whole}`);
  }
  t.pass();
});

await t.test('killed at any moment: everything that was acknowledged is there', async (t) => {
  const file = fresh();
  const vms = 7;
  let acknowledged = 0;
  for (let round = 0; round < 12; round++) {
    const child = spawn(
      process.execPath,
      [path.join(import.meta.dirname, 'writer.js'), file, String(vms), String(acknowledged + 1)],
      { stdio: ['ignore', 'pipe', 'inherit'] },
    );
    let said = '';
    // Round by round a little later: amid the first append as well as amid writing anew.
    const enough = 1 + round * 25;
    await new Promise<void>((resolve) => {
      child.stdout.on('data', (d: Buffer) => {
        said += d.toString();
        if (said.split('\n').length > enough) child.kill('SIGKILL');
      });
      child.once('close', () => resolve());
    });
    const whole = said.slice(0, said.lastIndexOf('\n')).split('\n');
    acknowledged = Number(whole.at(-1));
    const read = await readJournal(file);
    t.same(read.unreadable, []);
    t.equal(read.last.size, vms);
    for (const e of read.last.values()) {
      if (e.gen < acknowledged) t.fail(`generation ${acknowledged} was acknowledged, ${e.gen} is there`);
    }
    acknowledged = Math.max(acknowledged, ...[...read.last.values()].map((e) => e.gen));
  }
  t.ok(acknowledged > 300);
  await appendFile(file, '{"vm":"torn');
  t.equal((await opened(file)).entries().length, vms);
});
