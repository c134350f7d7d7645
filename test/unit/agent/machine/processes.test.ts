import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import t from 'tap';
import { isDead, isDying } from '../../../../agent/machine/processes.js';

const vm = '11111111-1111-4111-8111-111111111111';
const status = (state: string, own: string, shared: string): string =>
  `Name:\tqemu-system-x86\nState:\t${state}\nSigPnd:\t${own}\nShdPnd:\t${shared}\nSigBlk:\t0000000000000100\n`;
const none = '0000000000000000';

void t.test('a process that has SIGKILL before it, or has ended, runs nothing more', async (t) => {
  t.equal(isDying(status('D (disk sleep)', none, none)), false);
  t.equal(isDying(status('D (disk sleep)', none, '0000000000000100')), true);
  t.equal(isDying(status('D (disk sleep)', '0000000000000100', none)), true);
  t.equal(isDying(status('D (disk sleep)', none, '0000000000004000')), false, 'SIGTERM is no end');
  t.equal(isDying(status('Z (zombie)', none, none)), true);
});

void t.test('a VM is dead when each process of it is', async (t) => {
  const root = mkdtempSync(path.join(tmpdir(), 'proc-'));
  t.teardown(() => rmSync(root, { recursive: true }));
  const process = (pid: number, words: string[], text: string): void => {
    const dir = path.join(root, 'proc', String(pid));
    mkdirSync(dir, { recursive: true });
    writeFileSync(path.join(dir, 'cmdline'), words.join('\0') + '\0');
    writeFileSync(path.join(dir, 'status'), text);
  };
  process(1, ['/sbin/init'], status('S (sleeping)', none, none));
  t.equal(await isDead(vm, root), true);
  process(7, ['qemu', '-uuid', vm], status('D (disk sleep)', none, none));
  t.equal(await isDead(vm, root), false);
  process(7, ['qemu', '-uuid', vm], status('D (disk sleep)', none, '0000000000000100'));
  t.equal(await isDead(vm, root), true);
  process(8, ['qemu', '-uuid', vm], status('S (sleeping)', none, none));
  t.equal(await isDead(vm, root), false);
});
