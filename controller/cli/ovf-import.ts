import { createHash } from 'node:crypto';
import path from 'node:path';
import { pipeline, Readable } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import { createGunzip } from 'node:zlib';
import type { Command } from 'commander';
import { parse as parseYaml } from 'yaml';
import { OvfArchive, type PackageFile, type PackageReport } from '../../agent/ovf/package.js';
import { FlotillaError } from '../../core/domain/error.js';
import { formatSize } from '../../core/domain/units.js';
import { unpackedBytesMax } from '../../core/ovf/model.js';
import type { ImageView, ImportPreview, RestCall } from '../../core/wire/rest.js';
import { imageEntry, sendImage } from './image.js';
import { collect } from './input.js';
import type { Io, WaitOptions } from './io.js';
import { readText } from './session.js';
import { plain } from './table.js';
import { defined, waiting } from './vm.js';

type Options = WaitOptions & {
  network?: string[];
  property?: string[];
  properties?: string;
  deploymentOption?: string;
  asVapp?: string;
  prefix: string;
  pool?: string;
  node?: string;
  acceptEulas?: true;
  allowFetch?: true;
  keepImages?: true;
  start?: true;
  preview?: true;
};

type Body = RestCall<'importMake'>['body'];

/** A guest is asked so often whether it answers, ms. */
const lookMs = 1_000;
/** A guest that is waited for without a time of its package has this long, s. */
const guestS = 600;

const usage = (message: string, hint: string): FlotillaError =>
  new FlotillaError('bad-input', message, { hint });

/** `flotilla import`, and the same among the commands for packages. */
export function ovfImportCommand(parent: Command, io: Io): void {
  waiting(parent.command('import'))
    .description('make the VMs of a package; given again after it was stopped, it goes on')
    .argument('<file>', 'an .ova, an .ovf, or a folder with one')
    .option('--preview', 'only say what would be made')
    .option('--network <theirs=ours>', 'which network one of the package’s is; =none: none', collect)
    .option('--property <id=value>', 'the value of a property', collect)
    .option('--properties <file>', 'values of properties, as YAML; secret ones only so; -: standard input')
    .option('--deployment-option <id>', 'one of its deployment options')
    .option('--as-vapp <name>', 'one vApp of all its VMs, with their order')
    .option('--prefix <text>', 'before the names of VMs and images', '')
    .option('--pool <pool>', 'where disks and images lie')
    .option('--node <node>', 'the node that shall own the VMs')
    .option('--accept-eulas', 'its licences are accepted')
    .option('--allow-fetch', 'let nodes fetch disks that it names by an http(s) address')
    .option('--keep-images', 'leave the images from which the disks were made')
    .option('--start', 'start them in their order')
    .action(async (file: string, o: Options) => {
      const archive = await OvfArchive.open(file);
      const report = await archive.report({
        ...(o.deploymentOption === undefined ? {} : { configuration: o.deploymentOption }),
        // Disks are checked as they are sent.
        verify: false,
        nowMs: Date.now(),
        signal: io.terminal.signal,
      });
      const body = await bodyOf(io, archive, report, o);
      const preview = await (await io.client()).call('importPreview', { body });
      const stands = preview.problems.filter((p) => p.about !== 'licence').map((p) => p.text);
      if (stands.length > 0)
        throw new FlotillaError('unsupported', `${report.file} cannot be imported: ${stands.join('; ')}`, {
          hint: 'Nothing was made.',
          details: { refusals: stands },
        });
      if (o.preview === true) {
        io.show(preview, () => planText(preview));
        return;
      }
      if (report.eulas.length > 0 && o.acceptEulas !== true)
        throw usage(
          `The package has ${report.eulas.length} licences to accept`,
          `Read them: flotilla ovf inspect ${file} --json; then give --accept-eulas.`,
        );
      io.say(`${planText(preview)}\n\n`);
      await new Import(io, archive, report, o).run(body, preview);
      io.show(preview, () => `Made: ${preview.vms.map((v) => v.name).join(', ')}`);
    });
}

/** What the API is told of the package and of what is wished. */
async function bodyOf(io: Io, archive: OvfArchive, report: PackageReport, o: Options): Promise<Body> {
  const files = await archive.small(report);
  return defined({
    file: path.basename(report.file),
    kind: report.kind,
    files: files.map((f) => ({
      name: f.name,
      sizeBytes: f.sizeBytes,
      ...(f.content === null ? {} : { content: Buffer.from(f.content).toString('base64') }),
    })),
    deploymentOption: o.deploymentOption,
    networks: Object.fromEntries(
      (o.network ?? []).map((text) => {
        const [theirs, ours] = pair(text, '--network', 'THEIRS=OURS');
        return [theirs, ours === 'none' ? null : ours];
      }),
    ),
    properties: Object.fromEntries(await valuesOf(io, report, o)),
    prefix: o.prefix,
    pool: o.pool,
    node: o.node,
    vapp: o.asVapp,
    acceptEulas: o.acceptEulas === true,
    allowFetch: o.allowFetch === true,
    keepImages: o.keepImages === true,
    // Several VMs beside each other are started here, one after the other.
    start: o.start === true && o.asVapp !== undefined,
  }) as Body;
}

async function valuesOf(io: Io, report: PackageReport, o: Options): Promise<Map<string, string>> {
  const out = new Map<string, string>();
  for (const text of o.property ?? []) {
    const [id, value] = pair(text, '--property', 'ID=VALUE');
    if (report.properties.some((p) => p.id === id && p.secret))
      throw usage(
        `The value of "${id}" is a secret, and others can read command lines`,
        'Write it into a file: --properties FILE',
      );
    out.set(id, value);
  }
  if (o.properties === undefined) return out;
  const text = o.properties === '-' ? await io.stdin() : await readText(o.properties, 'The properties');
  let value: unknown = null;
  try {
    value = parseYaml(text, { maxAliasCount: 20 });
  } catch {
    // Told below; the parser's own words could hold a secret.
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    throw usage(
      `The properties in ${o.properties} are no YAML mapping`,
      'Lines are like: org.example.title: My shop',
    );
  for (const [id, v] of Object.entries(value)) {
    if (!['string', 'number', 'boolean'].includes(typeof v))
      throw usage(
        `The value of "${id}" in ${o.properties} is no text, number or yes or no`,
        'Put it in quotes.',
      );
    out.set(id, String(v));
  }
  return out;
}

/** The last `=` parts them, as names may have one too. */
function pair(text: string, option: string, form: string): [string, string] {
  const eq = option === '--property' ? text.indexOf('=') : text.lastIndexOf('=');
  if (eq > 0) return [text.slice(0, eq), text.slice(eq + 1)];
  throw usage(`${option} "${text.slice(0, 60)}" is not ${form}`, `e.g. ${option} ${form}`);
}

function planText(p: ImportPreview): string {
  const vm = (v: ImportPreview['vms'][number]): string =>
    [
      `VM ${v.name}: ${v.cpus} CPUs, ${v.memoryMiB} MiB, ${v.firmware}`,
      ...v.disks.map(
        (d) =>
          `  disk ${d.name}: ${d.sizeBytes === null ? 'as its image' : formatSize(d.sizeBytes)} on ${d.bus}${d.image === null ? ', empty' : `, of ${d.image}`}`,
      ),
      ...v.nics.map((n) => `  NIC: ${n.network} (${n.model})`),
      ...v.changes.map((c) => `  ! ${c}`),
    ].join('\n');
  const order = p.stages.map(
    (s, i) =>
      `${i + 1}. ${s.vms.join(', ')}${s.waitForGuest ? ', until the guest answers' : s.delayS > 0 ? `, then ${s.delayS} s` : ''}`,
  );
  return [...p.vms.map(vm), p.stages.length < 2 ? '' : `Started:\n${order.join('\n')}`]
    .filter(Boolean)
    .join('\n\n')
    .split('\n')
    .map(plain)
    .join('\n');
}

/** Errors after which the same command goes on; all others take back what was made. */
const passing = new Set([
  'cancelled',
  'timeout',
  'node-unreachable',
  'ledger-unavailable',
  'pool-unavailable',
]);

/** One import: images first, then VMs. What of it is there already is gone on from. */
class Import {
  readonly #io: Io;
  readonly #archive: OvfArchive;
  readonly #report: PackageReport;
  readonly #o: Options;
  readonly #images = new Map<string, ImageView>();
  /** Files that were read to their end. */
  readonly #reads = new Map<string, Whole>();
  /** By this run. */
  readonly #madeImages: string[] = [];
  readonly #madeVms: string[] = [];
  #madeVapp: string | null = null;

  constructor(io: Io, archive: OvfArchive, report: PackageReport, o: Options) {
    this.#io = io;
    this.#archive = archive;
    this.#report = report;
    this.#o = o;
  }

  async run(body: Body, preview: ImportPreview): Promise<void> {
    try {
      if (await this.#there(preview)) return;
      for (const image of preview.images) this.#images.set(image.name, await this.#image(image));
      const client = await this.#io.client();
      const made = await client.call('importMake', { body });
      this.#madeVapp = made.there ? null : made.vapp;
      if (made.vapp === null) this.#madeVms.push(...made.ops.map((op) => op.subject.id));
      for (const op of made.ops) await this.#io.follow(op, { ...this.#o, wait: true });
    } catch (error) {
      if (!(error instanceof FlotillaError) || passing.has(error.code)) throw error;
      await this.#takeBack();
      throw error;
    }
    const isos = new Set(preview.images.filter((i) => i.iso).map((i) => this.#images.get(i.name)?.id));
    if (this.#o.keepImages !== true)
      for (const id of this.#madeImages) if (!isos.has(id)) await this.#deleteImage(id);
    if (this.#o.start === true && this.#o.asVapp === undefined)
      for (const stage of preview.stages) await this.#start(stage);
  }

  /** Whether an earlier run of this import made all of it: what there is of other makers was refused before. */
  async #there(preview: ImportPreview): Promise<boolean> {
    const { asVapp } = this.#o;
    if (asVapp !== undefined) {
      if ((await this.#find('vappGet', { vapp: asVapp })) === null) return false;
      this.#io.say(`vApp "${asVapp}" is there already.\n`);
      return true;
    }
    for (const { name } of preview.vms) if ((await this.#find('vmGet', { vm: name })) === null) return false;
    this.#io.say('Its VMs are there already.\n');
    return true;
  }

  async #find<N extends 'vmGet' | 'imageGet' | 'vappGet'>(name: N, params: RestCall<N>['params']) {
    try {
      return await (await this.#io.client()).call(name, { params } as never);
    } catch (error) {
      if (error instanceof FlotillaError && error.code === 'not-found') return null;
      throw error;
    }
  }

  async #image(planned: ImportPreview['images'][number]): Promise<ImageView> {
    if (planned.url !== null) return this.#fetched(planned, planned.url);
    const file = this.#report.files.find((f) => f.names.join('\n') === planned.files.join('\n'));
    if (file === undefined) throw usage(`File "${planned.files[0] ?? ''}" is gone`, 'Begin anew.');
    const size = file.compression === null ? (file.storedBytes ?? 0) : (await this.#read(file)).size;
    const there = await this.#find('imageGet', { image: planned.name });
    if (there?.state === 'ready' && there.sha256 === (await this.#read(file)).sha256) {
      this.#io.say(`Image "${there.name}" is there already.\n`);
      return there;
    }
    const sha256 = file.compression === null ? file.sha256 : null;
    const body = defined({
      ...this.#placeOf(planned),
      sizeBytes: size,
      sha256: sha256 ?? undefined,
    }) as RestCall<'imageCreate'>['body'];
    const entry = await imageEntry(this.#io, body, size, sha256);
    this.#madeImages.push(entry.id);
    await sendImage(this.#io, entry, size, (offset) => this.#bytes(file, offset));
    const client = await this.#io.client();
    const done = await client.call('imageComplete', { params: { image: entry.id } });
    if (done.op !== null) await this.#io.follow(done.op, { ...this.#o, wait: true });
    const image = await client.call('imageGet', { params: { image: entry.id } });
    // Also of what an earlier run had sent: all that came is what the package has, and what its manifest says.
    const whole = this.#reads.get(file.id) ?? (await this.#read(file));
    if (image.sha256 !== whole.sha256)
      throw new FlotillaError('checksum-mismatch', `Not all that came of "${file.href}" is of this package`, {
        hint: 'Give the command again: it begins anew.',
      });
    return image;
  }

  /** One that a node fetches. */
  async #fetched(planned: ImportPreview['images'][number], url: string): Promise<ImageView> {
    const client = await this.#io.client();
    const there = await this.#find('imageGet', { image: planned.name });
    if (there?.state === 'ready' && there.source === url) return there;
    const { image, op } = await client.call('imageCreate', {
      body: defined({ ...this.#placeOf(planned), url }) as RestCall<'imageCreate'>['body'],
    });
    this.#madeImages.push(image.id);
    if (op !== null) await this.#io.follow(op, { ...this.#o, wait: true });
    return client.call('imageGet', { params: { image: image.id } });
  }

  #placeOf(planned: ImportPreview['images'][number]): Record<string, unknown> {
    return {
      name: planned.name,
      pool: this.#o.pool,
      // All on one node: there their files become disks.
      node: this.#o.node ?? [...this.#images.values()].find((i) => i.node !== null)?.node ?? undefined,
      format: planned.iso ? 'iso' : undefined,
      sha256: planned.sha256 ?? undefined,
    };
  }

  /** Reads all of a file as its disk reads it, and checks it. */
  async #read(file: PackageFile): Promise<Whole> {
    const had = this.#reads.get(file.id);
    if (had !== undefined) return had;
    let size = 0;
    for await (const part of this.#bytes(file, 0)) {
      size += (part as Buffer).length;
      this.#io.progress(`reading ${file.href}: ${formatSize(size)}`);
    }
    this.#io.progress(null);
    const whole = this.#reads.get(file.id);
    if (whole === undefined) throw usage(`"${file.href}" was not read to its end`, 'Begin anew.');
    return whole;
  }

  /** A file as its disk reads it, from a byte on. It is always read from the first, which tells whether it is whole. */
  #bytes(file: PackageFile, offset: number): Readable {
    const { signal } = this.#io.terminal;
    const bytesMax = unpackedBytesMax(this.#report, file) ?? Infinity;
    const whole = wholly(unpacked(this.#archive.checked(file), file), file, bytesMax, (w) =>
      this.#reads.set(file.id, w),
    );
    return Readable.from(skipped(whole, offset), { signal, objectMode: false });
  }

  async #start(stage: ImportPreview['stages'][number]): Promise<void> {
    const client = await this.#io.client();
    for (const vm of stage.vms) {
      const { op } = await client.call('vmAction', { params: { vm, action: 'start' } });
      await this.#io.follow(op, { ...this.#o, wait: true });
    }
    const { signal } = this.#io.terminal;
    if (!stage.waitForGuest) {
      // The package's own order: so long after these the next ones are begun.
      if (stage.delayS > 0) await sleep(stage.delayS * 1000, undefined, { signal });
      return;
    }
    const endMs = Date.now() + (stage.delayS > 0 ? stage.delayS : guestS) * 1000;
    for (;;) {
      const all = await Promise.all(stage.vms.map((vm) => client.call('vmGet', { params: { vm } })));
      if (all.every((v) => v.guestAgent) || Date.now() >= endMs) return;
      this.#io.progress(`waiting for the guests of ${stage.vms.join(', ')}`);
      await sleep(lookMs, undefined, { signal });
    }
  }

  async #takeBack(): Promise<void> {
    const client = await this.#io.client();
    this.#io.say('It failed: what was made is taken back.\n');
    if (this.#madeVapp !== null) {
      const { op } = await client.call('vappDelete', {
        params: { vapp: this.#madeVapp },
        query: { force: 'true' },
      });
      await this.#io.follow(op, { ...this.#o, wait: true });
    }
    for (const vm of this.#madeVms) {
      const { op } = await client.call('vmDelete', { params: { vm }, query: { force: 'true' } });
      await this.#io.follow(op, { ...this.#o, wait: true });
    }
    for (const id of this.#madeImages) await this.#deleteImage(id);
  }

  async #deleteImage(image: string): Promise<void> {
    if ((await this.#find('imageGet', { image })) === null) return;
    const { op } = await (await this.#io.client()).call('imageDelete', { params: { image } });
    await this.#io.follow(op, { ...this.#o, wait: true });
  }
}

/** What a file was, read to its end. */
interface Whole {
  readonly size: number;
  readonly sha256: string;
}

/** @throws FlotillaError `image-refused`: it cannot be unpacked */
async function* unpacked(data: AsyncIterable<Buffer>, file: PackageFile): AsyncGenerator<Buffer> {
  if (file.compression === null) {
    yield* data;
    return;
  }
  const gunzip = createGunzip();
  pipeline(Readable.from(copies(data), { objectMode: false }), gunzip, () => undefined);
  try {
    for await (const part of gunzip) yield part as Buffer;
  } catch (cause) {
    if (cause instanceof FlotillaError) throw cause;
    throw new FlotillaError('image-refused', `"${file.href}" cannot be unpacked`, {
      hint: 'It was damaged or cut off: get it again.',
      cause,
    });
  }
}

/** Parts that stay as they are when the next one is read. */
async function* copies(data: AsyncIterable<Buffer>): AsyncGenerator<Buffer> {
  for await (const part of data) yield Buffer.from(part);
}

/** @throws FlotillaError `image-refused`: it is longer than it may be */
async function* wholly(
  data: AsyncIterable<Buffer>,
  file: PackageFile,
  bytesMax: number,
  ended: (whole: Whole) => void,
): AsyncGenerator<Buffer> {
  const hash = createHash('sha256');
  let size = 0;
  for await (const part of data) {
    size += part.length;
    if (size > bytesMax)
      throw new FlotillaError('image-refused', `"${file.href}" is far larger unpacked than its disk`, {
        hint: 'Such files are made to fill disks: do not use the package unless you know its maker.',
      });
    hash.update(part);
    yield part;
  }
  ended({ size, sha256: hash.digest('hex') });
}

async function* skipped(data: AsyncIterable<Buffer>, offset: number): AsyncGenerator<Buffer> {
  let left = offset;
  for await (const part of data) {
    if (left >= part.length) left -= part.length;
    else {
      // What sends it holds several, and a package gives out all of its parts in one place.
      yield Buffer.from(left === 0 ? part : part.subarray(left));
      left = 0;
    }
  }
}
