import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { stat } from 'node:fs/promises';
import path from 'node:path';
import type { Readable } from 'node:stream';
import type { Command } from 'commander';
import { FlotillaError } from '../../core/domain/error.js';
import { formatSize } from '../../core/domain/units.js';
import type { ImageView, OpView, RestCall } from '../../core/wire/rest.js';
import { bar, type Io, type WaitOptions } from './io.js';
import type { Column } from './table.js';
import { defined, waiting } from './vm.js';

/** Tries of an upload that breaks off without getting any further. */
const triesMax = 5;
const againMs = 1_000;
/** The progress line is drawn at most so often, ms. */
const drawMs = 200;

const columns: readonly Column<ImageView>[] = [
  { head: 'NAME', text: (i) => i.name },
  { head: 'STATE', text: (i) => i.state + (i.error === null ? '' : ` (${i.error.code})`) },
  { head: 'FORMAT', text: (i) => i.format, give: 4 },
  { head: 'SIZE', text: (i) => formatSize(i.sizeBytes), right: true, give: 3 },
  { head: 'VIRTUAL', text: (i) => formatSize(i.virtualSizeBytes), right: true, give: 2 },
  { head: 'POOL', text: (i) => i.poolName ?? i.pool, give: 1 },
  { head: 'NODE', text: (i) => i.node ?? 'shared', give: 2 },
];

type ImportOptions = WaitOptions & {
  pool?: string;
  node?: string;
  format?: string;
  sha256?: string;
  checksum: boolean;
};

export function imageCommands(program: Command, io: Io): void {
  const image = program.command('image').description('images to make disks from, and ISOs');

  image
    .command('list')
    .alias('ls')
    .description('list images')
    .action(async () => {
      const rows: ImageView[] = [];
      for await (const page of (await io.client()).all('imageList', {})) rows.push(...page.items);
      io.list(rows, columns, 'There are no images. Import one: flotilla image import FILE');
    });

  image
    .command('show')
    .description('show one image')
    .argument('<image>', 'name or id')
    .action(async (name: string) => {
      const i = await (await io.client()).call('imageGet', { params: { image: name } });
      io.facts(i, [
        ['Name', i.name],
        ['Id', i.id],
        ['State', i.state],
        ['Format', i.format],
        ['Size', formatSize(i.sizeBytes)],
        ['Virtual size', formatSize(i.virtualSizeBytes)],
        ['SHA-256', i.sha256],
        ['Pool', i.poolName],
        ['Node', i.node ?? 'all of its pool'],
        ['From', i.source],
        ['Error', i.error === null ? null : `${i.error.message} [${i.error.code}]`],
      ]);
    });

  waiting(image.command('import'))
    .description(
      'import an image of a file or URL; an upload that broke off goes on when the command is given again',
    )
    .argument('<source>', 'a file, or an http(s) URL')
    .argument('[name]', 'its name; else made of the source')
    .option('--pool <pool>', 'where it lies')
    .option('--node <node>', 'on a local pool: the node that holds it')
    .option(
      '--format <format>',
      'iso, raw, qcow2, vmdk, vhdx or vpc; else told by the end of the source’s name',
    )
    .option('--sha256 <hex>', 'what its checksum must be')
    .option('--no-checksum', 'do not read a file beforehand for its checksum')
    .action(async (source: string, name: string | undefined, o: ImportOptions) => {
      const as = name ?? nameOf(source);
      const format = o.format ?? (/\.iso$/i.test(source) ? 'iso' : undefined);
      const base = defined({ name: as, pool: o.pool, node: o.node, format, sha256: o.sha256?.toLowerCase() });
      const r = /^https?:\/\//i.test(source)
        ? await (
            await io.client()
          ).call('imageCreate', { body: { ...base, url: source } as RestCall<'imageCreate'>['body'] })
        : await upload(io, source, base, o);
      if (r.op !== null) await io.follow(r.op, o);
      const now = await (await io.client()).call('imageGet', { params: { image: r.image.id } });
      io.show(now, () => `Image "${now.name}" is ${now.state}.`);
    });

  waiting(image.command('delete'))
    .alias('rm')
    .description('delete an image, or give up its upload')
    .argument('<image>', 'name or id')
    .action(async (name: string, o: WaitOptions) => {
      const { op } = await (await io.client()).call('imageDelete', { params: { image: name } });
      const done = await io.follow(op, o);
      io.show(done, () => `${done.subject.name}: ${done.state === 'done' ? 'deleted' : done.state}`);
    });
}

/** `debian-13.qcow2` → `debian-13`. */
function nameOf(source: string): string {
  const file = path.basename(source.replace(/[?#].*$/, ''));
  return file.replace(/\.(qcow2|img|raw|iso|vmdk|vhdx|vhd|vpc)$/i, '').replaceAll(/[^\p{L}\p{N}._-]+/gu, '-');
}

/**
 * Uploads a file. An entry of the same name, size and checksum whose upload is not complete is gone on with: that is
 * what a command that was killed left.
 */
async function upload(
  io: Io,
  file: string,
  base: Record<string, unknown>,
  o: ImportOptions,
): Promise<{ image: ImageView; op: OpView | null }> {
  const client = await io.client();
  const size = await sizeOf(file);
  const sha256 = o.sha256?.toLowerCase() ?? (o.checksum ? await checksum(io, file, size) : undefined);
  const body = defined({ ...base, sizeBytes: size, sha256 }) as RestCall<'imageCreate'>['body'];
  const image = await imageEntry(io, body, size, sha256 ?? null);
  const open = (start: number): Readable => createReadStream(file, { start, highWaterMark: 256 * 1024 });
  await sendImage(io, image, size, open);
  return client.call('imageComplete', { params: { image: image.id } });
}

async function sizeOf(file: string): Promise<number> {
  try {
    const s = await stat(file);
    if (s.isFile() && s.size > 0) return s.size;
  } catch (cause) {
    throw new FlotillaError('bad-input', `The file ${file} cannot be read`, {
      hint: 'Check the path.',
      cause,
    });
  }
  throw new FlotillaError('bad-input', `${file} is not a file with anything in it`, {
    hint: 'Check the path.',
  });
}

async function checksum(io: Io, file: string, size: number): Promise<string> {
  const hash = createHash('sha256');
  let done = 0;
  const draw = drawer(io, 'reading');
  for await (const part of createReadStream(file, {
    highWaterMark: 1024 * 1024,
    signal: io.terminal.signal,
  })) {
    hash.update(part as Buffer);
    done += (part as Buffer).length;
    draw(done, size);
  }
  io.progress(null);
  return hash.digest('hex');
}

/** The catalogue's entry for an upload: a new one, or the one of the same bytes that was begun. */
export async function imageEntry(
  io: Io,
  body: RestCall<'imageCreate'>['body'],
  size: number,
  sha256: string | null,
): Promise<ImageView> {
  const client = await io.client();
  try {
    return (await client.call('imageCreate', { body })).image;
  } catch (error) {
    if (!(error instanceof FlotillaError) || error.code !== 'name-taken') throw error;
    const had = await client.call('imageGet', { params: { image: body.name } });
    if (had.state !== 'uploading' || had.expectedBytes !== size || had.sha256 !== sha256) throw error;
    io.say(`Going on with the upload of "${had.name}".\n`);
    return had;
  }
}

/**
 * Sends an image's bytes, going on where an earlier try broke off.
 *
 * @param open - its bytes from a place on
 */
export async function sendImage(
  io: Io,
  image: ImageView,
  size: number,
  open: (offset: number) => Readable,
): Promise<void> {
  const client = await io.client();
  const draw = drawer(io, 'sending');
  let before = -1;
  let tries = 0;
  for (;;) {
    const { offset } = await client.call('imageUploadGet', { params: { image: image.id } });
    if (offset >= size) break;
    tries = offset > before ? 1 : tries + 1;
    before = offset;
    try {
      const data = open(offset);
      let at = offset;
      data.on('data', (part: Buffer) => {
        at += part.length;
        draw(at, size);
      });
      await client.upload(image.id, offset, size - offset, data, io.terminal.signal);
    } catch (error) {
      if (io.terminal.signal.aborted) {
        io.progress(null);
        throw new FlotillaError(
          'cancelled',
          `The upload of "${image.name}" was stopped at ${formatSize(before)}`,
          {
            hint: 'Give the same command again to go on from there.',
          },
        );
      }
      const mend =
        error instanceof FlotillaError &&
        ['node-unreachable', 'offset-mismatch', 'cancelled'].includes(error.code);
      if (!mend || tries >= triesMax) throw error;
      await new Promise((go) => setTimeout(go, againMs * tries));
    }
  }
  io.progress(null);
}

function drawer(io: Io, verb: string): (done: number, size: number) => void {
  const startMs = Date.now();
  let drawnMs = 0;
  let first: number | null = null;
  return (done, size) => {
    const now = Date.now();
    first ??= done;
    if (now - drawnMs < drawMs && done < size) return;
    drawnMs = now;
    const rate = (done - first) / Math.max(0.001, (now - startMs) / 1000);
    const left = rate > 0 ? `, ${Math.ceil((size - done) / rate)} s left` : '';
    io.progress(
      `${verb} ${bar(done / size)} ${Math.floor((done / size) * 100)} % of ${formatSize(size)}, ${formatSize(rate)}/s${left}`,
    );
  };
}
