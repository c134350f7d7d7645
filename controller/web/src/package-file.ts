import { FlotillaError } from '../../../core/domain/error';
import { goesWithPreview } from '../../../core/ovf/sent';
import { listTar } from '../../../core/ovf/tar';
import type { ImportPreview, RestCall } from '../../../core/wire/rest';
import { apiRoot, restStreams, uploadOffsetHeader, type OpView, type Problem } from '../../../core/wire/rest';
import { call, Refused } from './api';

type Body = RestCall<'importMake'>['body'];

/** A package that somebody chose in the browser: what is told of it, and its files. It is never read as a whole. */
export interface ChosenPackage {
  readonly told: Pick<Body, 'file' | 'kind' | 'files'>;
  readonly parts: ReadonlyMap<string, Blob>;
}

const asRefused = (e: FlotillaError): Refused =>
  new Refused({ code: e.code, message: e.message, hint: e.hint, causes: [] });

/**
 * @param chosen - an .ova alone, or an .ovf with its files
 * @throws Refused
 */
export async function openPackage(chosen: readonly File[]): Promise<ChosenPackage> {
  const [first] = chosen;
  if (first === undefined)
    throw new Refused({
      code: 'bad-input',
      message: 'No file was chosen',
      hint: 'Choose an .ova, or an .ovf with all its files.',
      causes: [],
    });
  const descriptor = chosen.find((f) => /\.ovf$/i.test(f.name));
  const parts = new Map<string, Blob>(
    descriptor === undefined ? await entriesOf(first) : chosen.map((f): [string, Blob] => [f.name, f]),
  );
  const files: Body['files'] = [];
  for (const [name, blob] of parts) {
    const content = goesWithPreview(name, blob.size) ? await base64(blob) : undefined;
    files.push({ name, sizeBytes: blob.size, ...(content === undefined ? {} : { content }) });
  }
  const kind = descriptor === undefined ? 'ova' : 'ovf';
  return { told: { file: (descriptor ?? first).name, kind, files }, parts };
}

async function entriesOf(file: File): Promise<[string, Blob][]> {
  try {
    const entries = await listTar(
      file.name,
      async (at, length) => new Uint8Array(await file.slice(at, at + length).arrayBuffer()),
      file.size,
    );
    return entries.map((e) => [e.name, file.slice(e.offset, e.offset + e.sizeBytes)]);
  } catch (e) {
    throw e instanceof FlotillaError ? asRefused(e) : e;
  }
}

function base64(blob: Blob): Promise<string> {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () =>
      resolve(typeof reader.result === 'string' ? reader.result.replace(/^[^,]*,/, '') : '');
    reader.onerror = () => reject(reader.error ?? new Error('The file cannot be read'));
    reader.readAsDataURL(blob);
  });
}

export interface UploadOptions {
  readonly pool: string | undefined;
  readonly node: string | undefined;
  readonly signal: AbortSignal;
  /** Of what is stored. */
  progress(bytes: number): void;
}

/** One request; as much is sent anew where one broke off. */
const sendBytes = 16 * 1024 * 1024;
const triesMax = 5;
const againMs = 1_000;
const waitS = 5;

/**
 * Uploads a disk of the package as an image, going on with what an earlier try left.
 *
 * @returns the image's id, and whether it was made by this
 * @throws Refused
 */
export async function uploadDisk(
  p: ChosenPackage,
  image: ImportPreview['images'][number],
  o: UploadOptions,
): Promise<{ readonly id: string; readonly made: boolean }> {
  if (image.url !== null) return fetched(image, image.url, o);
  const data = new Blob(image.files.map((name) => p.parts.get(name) ?? new Blob([])));
  const there = await entryOf(image, o);
  if (there.state === 'ready') return { id: there.id, made: false };
  if (image.gzip) await sendPacked(there.id, data, image.bytesMax ?? Infinity, o);
  else
    for (;;) {
      const { offset } = await call('imageUploadGet', { params: { image: there.id } });
      o.progress(offset);
      if (offset >= data.size) break;
      await send(there.id, offset, data.slice(offset, offset + sendBytes), o.signal);
    }
  const { op } = await call('imageComplete', { params: { image: there.id } });
  if (op !== null) await ended(op, o.signal);
  return { id: there.id, made: true };
}

/** One that a node fetches. */
async function fetched(
  image: ImportPreview['images'][number],
  url: string,
  o: UploadOptions,
): Promise<{ readonly id: string; readonly made: boolean }> {
  try {
    const { image: made, op } = await call('imageCreate', { body: { ...placeOf(image, o), url } });
    if (op !== null) await ended(op, o.signal);
    return { id: made.id, made: true };
  } catch (e) {
    if (!(e instanceof Refused) || e.code !== 'name-taken') throw e;
    const had = await call('imageGet', { params: { image: image.name } });
    if (had.state === 'ready' && had.source === url) return { id: had.id, made: false };
    throw e;
  }
}

const placeOf = (image: ImportPreview['images'][number], o: UploadOptions) => ({
  name: image.name,
  ...(o.pool === undefined ? {} : { pool: o.pool }),
  ...(o.node === undefined ? {} : { node: o.node }),
  ...(image.iso ? { format: 'iso' as const } : {}),
  ...(image.sha256 === null ? {} : { sha256: image.sha256 }),
});

/** The image that is ready, that was begun, or a new one. */
async function entryOf(image: ImportPreview['images'][number], o: UploadOptions) {
  const sizeBytes = image.gzip ? null : image.storedBytes;
  try {
    const { image: made } = await call('imageCreate', {
      body: { ...placeOf(image, o), ...(sizeBytes === null ? {} : { sizeBytes }) },
    });
    return made;
  } catch (e) {
    if (!(e instanceof Refused) || e.code !== 'name-taken') throw e;
    const had = await call('imageGet', { params: { image: image.name } });
    const same = had.expectedBytes === sizeBytes && had.sha256 === image.sha256;
    if (had.state === 'uploading' && same) return had;
    // Without a checksum nobody can tell whether it is this package's.
    if (had.state === 'ready' && image.sha256 !== null && had.sha256 === image.sha256) return had;
    throw e;
  }
}

/** Unpacks on the way. */
async function sendPacked(id: string, data: Blob, bytesMax: number, o: UploadOptions): Promise<void> {
  const { offset: from } = await call('imageUploadGet', { params: { image: id } });
  let stored = 0;
  const counted = new TransformStream<Uint8Array<ArrayBuffer>, Uint8Array<ArrayBuffer>>({
    transform(part, out) {
      stored += part.length;
      o.progress(stored);
      out.enqueue(part);
    },
  });
  const reader = data.stream().pipeThrough(counted).pipeThrough(new DecompressionStream('gzip')).getReader();
  let at = 0;
  let waiting: Uint8Array<ArrayBuffer>[] = [];
  let waitingBytes = 0;
  const flush = async (): Promise<void> => {
    const begins = at - waitingBytes;
    const part = new Blob(waiting).slice(Math.max(0, from - begins));
    if (part.size > 0) await send(id, at - part.size, part, o.signal);
    waiting = [];
    waitingBytes = 0;
  };
  for (;;) {
    const { done, value } = await reader.read().catch((cause: unknown) => {
      throw new Refused({
        code: 'image-refused',
        message: 'A disk cannot be unpacked',
        hint: 'It was damaged or cut off: get the package again.',
        causes: [{ code: null, message: String(cause) }],
      } as never);
    });
    if (done) break;
    at += value.length;
    if (at > bytesMax)
      throw new Refused({
        code: 'image-refused',
        message: 'A disk is far larger unpacked than it says',
        hint: 'Such files are made to fill disks: do not use the package unless you know its maker.',
        causes: [],
      });
    waiting.push(value);
    waitingBytes += value.length;
    if (waitingBytes >= sendBytes) await flush();
  }
  await flush();
}

/** Sends bytes to their place; what of them came before the wire broke is not sent again. */
async function send(id: string, from: number, part: Blob, signal: AbortSignal): Promise<void> {
  const path = apiRoot + restStreams.imageContent.replace('{image}', encodeURIComponent(id));
  let at = from;
  for (let tries = 1; ; tries += 1) {
    try {
      const res = await fetch(path, {
        method: 'PUT',
        signal,
        headers: { 'content-type': 'application/octet-stream', [uploadOffsetHeader]: String(at) },
        body: part.slice(at - from),
      });
      if (res.ok) return;
      throw new Refused((await res.json()) as Problem);
    } catch (e) {
      const mends = !(e instanceof Refused) || ['node-unreachable', 'offset-mismatch'].includes(e.code);
      if (signal.aborted) throw stopped();
      if (!mends || tries >= triesMax) throw e;
      await pause(againMs * tries, signal);
      at = Math.max(from, (await call('imageUploadGet', { params: { image: id } })).offset);
      if (at >= from + part.size) return;
    }
  }
}

/** Waits for the end of an operation. @throws Refused: it failed */
export async function ended(op: OpView, signal: AbortSignal): Promise<void> {
  for (let now = op; ; now = await call('opGet', { params: { op: op.id }, query: { waitS } })) {
    if (now.state === 'done') return;
    if (now.state === 'failed' || now.state === 'cancelled')
      throw new Refused({
        code: now.error?.code ?? 'cancelled',
        message: now.error?.message ?? `${now.kind} was cancelled`,
        hint: now.error?.hint ?? 'Begin it anew.',
        causes: [],
      });
    if (signal.aborted) throw stopped();
  }
}

const stopped = (): Refused =>
  new Refused({
    code: 'cancelled',
    message: 'The import was stopped',
    hint: 'Begin it again with the same package: it goes on where it was.',
    causes: [],
  });

const pause = (ms: number, signal: AbortSignal): Promise<void> =>
  new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, ms);
    signal.addEventListener(
      'abort',
      () => {
        clearTimeout(timer);
        reject(stopped());
      },
      { once: true },
    );
  });
