import { FlotillaError } from '../../core/domain/error.js';
import type { Image } from '../../core/domain/image.js';
import { poolHasNode, type Pool } from '../../core/domain/pool.js';
import { formatSize } from '../../core/domain/units.js';
import { poolUse } from '../../core/decide/plan/fit.js';
import { ledger as kinds, unique } from '../../core/wire/ledger-keys.js';
import type { ImageView, RestBody } from '../../core/wire/rest.js';
import type { View } from '../view.js';
import { Change, commit, fresh, idFromKey, requestMark } from './commit.js';
import type { ApiDeps, Ask, Reply, Some } from './context.js';
import { idOf, notFound, poolOf } from './lookup.js';
import { nameFree } from './names.js';
import { newOp, opView, repeated } from './ops.js';
import { page } from './page.js';
import type { AgentAddress } from './uploads.js';

/** Images in a cluster, at most. */
const imagesMax = 1_000;
/** An agent reads the ledger a moment after we wrote it: so long it may not know a new image, ms. */
const agentLagMs = 8_000;
const askAgainMs = 250;

type Names = 'imageList' | 'imageGet' | 'imageCreate' | 'imageUploadGet' | 'imageComplete' | 'imageDelete';

/** The catalogue: entries are made here, bytes go to the nodes. */
export class Images {
  private readonly deps: ApiDeps;

  constructor(deps: ApiDeps) {
    this.deps = deps;
  }

  handlers(): Some<Names> {
    const { deps } = this;
    const { view } = deps;
    return {
      async imageList({ query }) {
        return page(view, view.list('image'), query);
      },
      imageGet: async ({ params }) => ({ body: this.shown(await idOf(view, 'image', params.image)) }),
      imageCreate: (ask) => this.create(ask),
      imageUploadGet: async ({ params, signal }) => {
        const { image, node } = await this.target(params.image);
        const state = {
          image: image.id,
          state: image.state,
          expectedBytes: image.expectedBytes,
          node: node.id,
        };
        if (image.state !== 'uploading') return { body: { ...state, offset: image.expectedBytes ?? 0 } };
        return { body: { ...state, offset: await this.offset(node, image.id, signal) } };
      },
      imageComplete: (ask) => this.complete(ask),
      imageDelete: (ask) => this.remove(ask),
    };
  }

  /** Passes a piece of an upload on. @returns where the upload then is */
  async append(
    ref: string,
    o: {
      offset: number;
      body: ReadableStream<Uint8Array> | null;
      length: string | undefined;
      signal: AbortSignal;
    },
  ): Promise<{ offset: number; node: string }> {
    const { image, node } = await this.target(ref);
    if (image.state !== 'uploading') throw notUploading(image);
    // Asked first: a refusal must come before the bytes, and the agent may not know a new image yet.
    const at = await this.offset(node, image.id, o.signal);
    if (at !== o.offset) {
      throw new FlotillaError(
        'offset-mismatch',
        `The upload of "${image.name}" goes on at ${at}, not at ${o.offset}`,
        {
          hint: 'Ask GET /images/{image}/upload where to go on, and send from there.',
          details: { offset: at },
        },
      );
    }
    return { offset: await this.deps.uploads.append(node, image.id, o), node: node.id };
  }

  private async create(ask: Ask<'imageCreate'>): Promise<Reply<'imageCreate'>> {
    const { deps } = this;
    const { view } = deps;
    const { body, who, idempotencyKey: key } = ask;
    const mark = requestMark(ask);
    const id = idFromKey(deps.chance, who, 'imageCreate', key);
    const opId = idFromKey(deps.chance, who, 'imageCreate op', key);
    if (key !== null && (await fresh(deps, kinds.image, id)) !== null) {
      const op = await repeated(deps, opId, mark);
      return { body: { image: this.shown(id), op: op === null ? null : opView(view, op) } };
    }
    view.freshness();
    if (body.pool !== undefined) await idOf(view, 'pool', body.pool);
    return commit<Reply<'imageCreate'>>(deps, `Image "${body.name}"`, async () => {
      if (view.ledger.tables.image.size >= imagesMax) {
        throw new FlotillaError('ledger-full', `There are ${imagesMax} images already`, {
          hint: 'Delete some that are no longer used.',
        });
      }
      await nameFree(deps, 'image', body.name);
      const pool = poolOf(view, body.pool);
      if (pool.kind === 'thin')
        throw new FlotillaError('unsupported', `The pool "${pool.name}" holds disks only`, {
          hint: 'Name a local or shared pool for images.',
        });
      const node = this.home(pool, body);
      const image: Image = {
        id,
        name: body.name,
        pool: pool.id,
        node: pool.kind === 'local' ? node : null,
        state: body.url === undefined ? 'uploading' : 'importing',
        format: body.format === 'iso' || body.format === 'raw' ? body.format : 'qcow2',
        expectedBytes: body.sizeBytes ?? null,
        sizeBytes: 0,
        virtualSizeBytes: 0,
        sha256: body.sha256 ?? null,
        source: body.url ?? null,
        createdMs: deps.clock.wallMs(),
        error: null,
      };
      const keptPool = view.ledger.tables.pool.get(pool.id);
      if (keptPool === undefined) throw notFound('pool', pool.id);
      const change = new Change()
        .at(kinds.image.key(id), null)
        .put(kinds.image, id, image)
        .take(unique.name('image', image.name), id)
        .refersTo(kinds.pool.key(pool.id), keptPool);
      if (body.url === undefined) {
        return { change, answer: () => ({ body: { image: this.shown(id), op: null } }) };
      }
      const op = newOp(deps, {
        id: opId,
        kind: 'image.import',
        subject: { kind: 'image', id, name: image.name },
        node,
        who,
        args: { request: mark, ...(body.format === undefined ? {} : { format: body.format }) },
      });
      change.at(kinds.op.key(opId), null).put(kinds.op, opId, op);
      return { change, answer: () => ({ body: { image: this.shown(id), op: opView(view, op) } }) };
    });
  }

  private async complete(ask: Ask<'imageComplete'>): Promise<Reply<'imageComplete'>> {
    const { deps } = this;
    const { view } = deps;
    const { image, node } = await this.target(ask.params.image);
    const mark = requestMark(ask);
    const key = ask.idempotencyKey;
    const opId = idFromKey(deps.chance, ask.who, `imageComplete ${image.id}`, key);
    const before = key === null ? null : await repeated(deps, opId, mark);
    if (before !== null) return { body: { image: this.shown(image.id), op: opView(view, before) } };
    if (image.state !== 'uploading') throw notUploading(image);
    const offset = await this.offset(node, image.id, ask.signal);
    if (offset === 0 || (image.expectedBytes !== null && offset !== image.expectedBytes)) {
      throw new FlotillaError(
        'offset-mismatch',
        `The upload of "${image.name}" is not complete: ${offset} of ${image.expectedBytes ?? 'some'} bytes are there`,
        { hint: `Send the rest, from ${offset} on.`, details: { offset } },
      );
    }
    return commit(deps, `Image "${image.name}"`, async () => {
      const kept = await fresh(deps, kinds.image, image.id);
      if (kept === null) throw notFound('image', ask.params.image);
      if (kept.value.state !== 'uploading') throw notUploading(kept.value);
      const op = newOp(deps, {
        id: opId,
        kind: 'image.import',
        subject: { kind: 'image', id: image.id, name: image.name },
        node: node.id,
        who: ask.who,
        args: { request: mark },
      });
      const change = new Change()
        .at(kinds.image.key(image.id), kept)
        .put(kinds.image, image.id, { ...kept.value, state: 'importing' })
        .at(kinds.op.key(opId), null)
        .put(kinds.op, opId, op);
      return { change, answer: () => ({ body: { image: this.shown(image.id), op: opView(view, op) } }) };
    });
  }

  private async remove(ask: Ask<'imageDelete'>): Promise<Reply<'imageDelete'>> {
    const { deps } = this;
    const { view } = deps;
    const mark = requestMark(ask);
    const key = ask.idempotencyKey;
    const opId = idFromKey(deps.chance, ask.who, `imageDelete ${ask.params.image}`, key);
    const before = key === null ? null : await repeated(deps, opId, mark);
    if (before !== null) return { body: { op: opView(view, before) } };
    const id = await idOf(view, 'image', ask.params.image);
    return commit<Reply<'imageDelete'>>(deps, `Image "${ask.params.image}"`, async () => {
      // First the image, then who uses it: whoever comes to use it later changes its revision.
      const kept = await fresh(deps, kinds.image, id);
      if (kept === null) throw notFound('image', ask.params.image);
      await view.ledger.refresh('disk', 'vmSpec', 'op');
      const open = view.vmOps(id).find((o) => o.state === 'queued' || o.state === 'running');
      if (open?.kind === 'image.delete')
        return { change: null, answer: () => ({ body: { op: opView(view, open) } }) };
      if (open !== undefined) {
        throw new FlotillaError('wrong-state', `The image "${kept.value.name}" is being imported`, {
          hint: `Cancel that first: flotilla op cancel ${open.id}.`,
        });
      }
      checkUnused(view, kept.value);
      const pool = view.ledger.tables.pool.get(kept.value.pool)?.value;
      const node = kept.value.node ?? (pool === undefined ? null : this.reachable(pool));
      if (node === null) throw noNode(`The image "${kept.value.name}" cannot be deleted now`);
      const op = newOp(deps, {
        id: opId,
        kind: 'image.delete',
        subject: { kind: 'image', id, name: kept.value.name },
        node,
        who: ask.who,
        args: { request: mark },
      });
      const change = new Change()
        .at(kinds.image.key(id), kept)
        .put(kinds.image, id, { ...kept.value, state: 'deleting' })
        .at(kinds.op.key(opId), null)
        .put(kinds.op, opId, op);
      return { change, answer: () => ({ body: { op: opView(view, op) } }) };
    });
  }

  private shown(id: string): ImageView {
    const cell = this.deps.view.cell('image', id);
    if (cell === undefined) throw notFound('image', id);
    return cell.view;
  }

  /** The image and the node that takes its bytes. @throws FlotillaError `not-found`, `node-unreachable` */
  private async target(ref: string): Promise<{ image: Image; node: AgentAddress }> {
    const { view } = this.deps;
    const id = await idOf(view, 'image', ref);
    const image = view.ledger.tables.image.get(id)?.value;
    if (image === undefined) throw notFound('image', ref);
    const pool = view.ledger.tables.pool.get(image.pool)?.value;
    const node = image.node ?? (pool === undefined ? null : this.reachable(pool));
    const record = node === null ? undefined : view.ledger.tables.node.get(node)?.value;
    const address = record?.addresses[0];
    if (record === undefined || address === undefined)
      throw noNode(`No node takes the image "${image.name}" now`);
    return { image, node: { id: record.id, address } };
  }

  /** Where the upload is, giving an agent that has not read the new image yet the time to do so. */
  private async offset(node: AgentAddress, imageId: string, signal: AbortSignal): Promise<number> {
    const { clock, uploads } = this.deps;
    const endMs = clock.nowMs() + agentLagMs;
    for (;;) {
      try {
        return await uploads.offset(node, imageId, signal);
      } catch (error) {
        const lag = error instanceof FlotillaError && error.code === 'not-found';
        if (!lag || clock.nowMs() >= endMs || signal.aborted) throw error;
        await clock.sleep(askAgainMs);
      }
    }
  }

  /** The node of a new image: the one asked for, else the one with most space, by name where equal. */
  private home(pool: Pool, body: RestBody<'imageCreate'>): string {
    const nodes = this.deps.view
      .clusterNodes()
      .filter((n) => poolHasNode(pool, n.id) && (body.node === undefined || n.id === body.node))
      .filter((n) => n.presence === 'here' && !n.witness)
      .map((n) => ({ id: n.id, use: poolUse(pool, n.pools) }))
      .sort((a, b) => (b.use?.freeBytes ?? 0) - (a.use?.freeBytes ?? 0) || (a.id < b.id ? -1 : 1));
    const best = nodes[0];
    if (best === undefined) {
      throw noNode(
        body.node === undefined
          ? `No node with the pool "${pool.name}" is here`
          : `Node ${body.node} is not here, or does not have the pool "${pool.name}"`,
      );
    }
    const { use } = best;
    if (use !== undefined && body.sizeBytes !== undefined && body.sizeBytes > use.freeBytes) {
      throw new FlotillaError(
        'no-space',
        `The image of ${formatSize(body.sizeBytes)} does not fit: the pool "${pool.name}" on ${best.id} has ${formatSize(use.freeBytes)} of ${formatSize(use.totalBytes)} free`,
        { hint: 'Free space there, or choose another pool or node.' },
      );
    }
    return best.id;
  }

  /** A node that can reach a shared pool: the first by name, so that an upload goes on at the same one. */
  private reachable(pool: Pool): string | null {
    const nodes = this.deps.view
      .clusterNodes()
      .filter((n) => poolHasNode(pool, n.id) && n.presence === 'here' && !n.witness);
    return nodes.map((n) => n.id).sort()[0] ?? null;
  }
}

const noNode = (message: string): FlotillaError =>
  new FlotillaError('node-unreachable', message, {
    hint: 'Bring a node with that pool back: flotilla node list.',
  });

const notUploading = (image: Image): FlotillaError =>
  new FlotillaError('wrong-state', `The image "${image.name}" takes no upload: it is ${image.state}`, {
    hint: 'Enter a new image to upload another file.',
  });

/** @throws FlotillaError `in-use` */
function checkUnused(view: View, image: Image): void {
  const t = view.ledger.tables;
  const users: string[] = [];
  for (const { value: d } of t.disk.values()) {
    if (d.source.kind !== 'image' || d.source.image !== image.id) continue;
    // A full clone needs its image until it is made.
    if (d.source.mode === 'linked' || d.state === 'wanted')
      users.push(`disk "${d.name}" of VM "${t.vmSpec.get(d.vm)?.value.name ?? d.vm}"`);
  }
  for (const { value: v } of t.vmSpec.values())
    if (v.cdroms.some((c) => c.image === image.id)) users.push(`a CD drive of VM "${v.name}"`);
  if (users.length === 0) return;
  throw new FlotillaError(
    'in-use',
    `The image "${image.name}" is in use by ${users.slice(0, 3).join(', ')}`,
    {
      hint: 'Delete those VMs, or take the image out of their drives, first.',
      details: { users: users.slice(0, 50) },
    },
  );
}
