import { mkdir, open, rename, rm } from 'node:fs/promises';
import path from 'node:path';
import type { Command } from 'commander';
import { OvfArchive } from '../../agent/ovf/package.js';
import { bytesOf, findShelf } from '../../agent/ovf/shelf.js';
import { FlotillaError } from '../../core/domain/error.js';
import { formatSize } from '../../core/domain/units.js';
import type { ApiClient } from './client.js';
import { bar, type Io, type WaitOptions } from './io.js';
import { waiting } from './vm.js';

/** Tries of a download that breaks off without getting any further. */
const triesMax = 5;

export function exportCommand(program: Command, io: Io): void {
  waiting(program.command('export'))
    .description('pack a VM or vApp, running or off, as an OVA or as a folder with its OVF, and fetch it')
    .argument('<vm>', 'name or id')
    .option('--vapp', 'it is a vApp: all its VMs in one package')
    .requiredOption('-o, --output <file>', 'FILE.ova, or a folder that is made')
    .action(async (vm: string, o: WaitOptions & { output: string; vapp?: true }) => {
      const folder = !/\.ova$/i.test(o.output);
      await free(o.output);
      const client = await io.client();
      const ops =
        o.vapp === true
          ? (await client.call('vappExport', { params: { vapp: vm } })).ops
          : [(await client.call('vmExport', { params: { vm } })).op];
      let ended = false;
      // Whoever leaves before it is packed wants it no more.
      const cancel = (): void => {
        if (!ended)
          for (const op of ops)
            void client.call('opCancel', { params: { op: op.id } }).catch(() => undefined);
      };
      io.terminal.signal.addEventListener('abort', cancel, { once: true });
      try {
        for (const op of ops) await io.follow(op, { ...o, wait: true });
      } finally {
        ended = true;
        io.terminal.signal.removeEventListener('abort', cancel);
      }
      const part = `${o.output}.part`;
      try {
        const [one] = ops;
        const of =
          o.vapp === true || one === undefined ? { vapp: vm, ops: ops.map((op) => op.id) } : { op: one.id };
        await fetchTo(io, of, part);
        const archive = await OvfArchive.open(part);
        const report = await archive.report({ verify: true, nowMs: Date.now(), signal: io.terminal.signal });
        if (folder) await unpack(part, o.output);
        else await rename(part, o.output);
        io.show(
          { file: o.output, ops: ops.map((op) => op.id), files: report.manifest?.verified ?? [] },
          () => `${o.output}: ${report.systems.map((s) => s.name).join(', ')}, all checksums right`,
        );
      } finally {
        await rm(part, { force: true });
      }
    });
}

/** @throws FlotillaError `bad-input`: there is something of that name */
async function free(file: string): Promise<void> {
  const there = await open(file, 'r').catch(() => null);
  if (there === null) return;
  await there.close();
  throw new FlotillaError('bad-input', `There is a ${file} already`, { hint: 'Name another, or remove it.' });
}

async function fetchTo(io: Io, of: Parameters<ApiClient['export']>[0], file: string): Promise<void> {
  const client = await io.client();
  await using handle = await open(file, 'w', 0o600);
  let at = 0;
  for (let tries = 1; ;) {
    const before = at;
    try {
      const { data, sizeBytes } = await client.export(of, at, io.terminal.signal);
      for await (const part of data) {
        await handle.write(part, 0, part.length, at);
        at += part.length;
        io.progress(
          `fetching ${bar(at / sizeBytes)} ${Math.floor((at / sizeBytes) * 100)} % of ${formatSize(sizeBytes)}`,
        );
      }
      if (at >= sizeBytes) break;
    } catch (error) {
      if (io.terminal.signal.aborted) throw cancelled(error);
      if (error instanceof FlotillaError && error.code !== 'node-unreachable') throw error;
      if (at === before && tries >= triesMax) throw error;
    }
    tries = at > before ? 1 : tries + 1;
    if (tries > triesMax)
      throw new FlotillaError('node-unreachable', 'The package does not come to its end', {
        hint: 'See whether its node is well, then give the command again.',
      });
  }
  io.progress(null);
  await handle.sync();
}

const cancelled = (cause: unknown): FlotillaError =>
  new FlotillaError('cancelled', 'The fetching was stopped', { hint: 'Give the command again.', cause });

/** The files of the archive into a folder of its own; their names were checked as it was read. */
async function unpack(file: string, folder: string): Promise<void> {
  await mkdir(folder);
  const shelf = await findShelf(file);
  for (const name of shelf.names) {
    const piece = await shelf.piece(name);
    if (piece === null) continue;
    await using out = await open(path.join(folder, path.basename(name)), 'wx', 0o600);
    for await (const part of bytesOf(piece, 0)) await out.writeFile(part);
    await out.sync();
  }
}
