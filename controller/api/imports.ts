import { OvfArchive, type PackageReport } from '../../agent/ovf/package.js';
import { sentShelf } from '../../agent/ovf/shelf.js';
import { FlotillaError } from '../../core/domain/error.js';
import type { Image } from '../../core/domain/image.js';
import { unpackedBytesMax } from '../../core/ovf/model.js';
import { planImport, type ImportPlan, type PlannedVm } from '../../core/ovf/plan.js';
import { embeddedVapp, isolatedOf, valuesOf, vappOf } from '../../core/ovf/vapp.js';
import {
  vappApplySchema,
  vmCreateSchema,
  type ImportBody,
  type Imported,
  type ImportPreview,
  type OpView,
  type RestBody,
  type VappApplied,
} from '../../core/wire/rest.js';
import type { ApiDeps, Ask, Handlers, Some } from './context.js';
import { idOf } from './lookup.js';
import { opView } from './ops.js';
import { VmWrites } from './vm-write.js';

/** A package that was looked into, and what would become of it. */
interface Looked {
  readonly report: PackageReport;
  readonly plan: ImportPlan;
  readonly networks: ReadonlyMap<string, string | null>;
  readonly preview: ImportPreview;
}

/** Packages of which the small files come with the request; their disks were uploaded as images before. */
export function importHandlers(
  deps: ApiDeps,
  vappApply: Handlers['vappApply'],
): Some<'importPreview' | 'importMake'> {
  return {
    async importPreview({ body, signal }) {
      return { body: (await look(deps, body, signal)).preview };
    },
    async importMake(ask) {
      const looked = await look(deps, ask.body, ask.signal);
      checkReady(looked, ask.body);
      await deps.view.ledger.refresh('image', 'vmSpec');
      const making = { deps, ask, looked, images: imagesOf(deps, looked.preview) };
      return {
        body:
          ask.body.vapp === undefined
            ? await makeVms(making)
            : await makeVapp(making, ask.body.vapp, vappApply),
      };
    },
  };
}

/** @throws FlotillaError `unsupported`, `bad-input` */
function checkReady({ report, plan, preview }: Looked, body: ImportBody): void {
  const stands = preview.problems.filter((p) => p.about !== 'licence').map((p) => p.text);
  if (stands.length > 0)
    throw new FlotillaError('unsupported', `${body.file} cannot be imported: ${stands.join('; ')}`, {
      hint: 'Nothing was made.',
      details: { refusals: stands },
    });
  if (report.eulas.length > 0 && !body.acceptEulas)
    throw new FlotillaError('bad-input', `The package has ${report.eulas.length} licences to accept`, {
      hint: 'Read them in the preview, then send acceptEulas: true.',
    });
  if (body.start && plan.vms.length > 1 && body.vapp === undefined)
    throw new FlotillaError('bad-input', 'Several VMs are started together only as a vApp', {
      hint: 'Name a vApp, or start them one after another when they are made.',
    });
}

interface Making {
  readonly deps: ApiDeps;
  readonly ask: Ask<'importMake'>;
  readonly looked: Looked;
  readonly images: ReadonlyMap<string, Image>;
}

async function makeVapp(m: Making, name: string, vappApply: Handlers['vappApply']): Promise<Imported> {
  const { deps, ask, looked } = m;
  const there = deps.view.find('vapp', name);
  if (there !== null) return { vapp: there, vms: [], ops: [], there: true };
  const own = embeddedVapp(looked.report);
  const reply = await placed((mode) => {
    const vms = looked.plan.vms.map((v) => withDisks(m, v, mode));
    const document = vappOf(looked.report, looked.plan, vms, name);
    const values = own === null ? {} : valuesOf(own, ask.body.properties);
    const body = vappApplySchema.parse({ document, values, acceptEulas: true, start: ask.body.start });
    return vappApply({ ...(ask as never as Ask<'vappApply'>), body, idempotencyKey: null });
  });
  const made = 'body' in reply ? reply.body : (JSON.parse(reply.json) as VappApplied);
  return {
    vapp: made.vapp?.id ?? null,
    vms: (made.vapp?.members ?? []).map((x) => ({ id: x.vm, name: x.vmName })),
    ops: made.op === null ? [] : [made.op],
    there: false,
  };
}

/** One after the other; if one is refused, those made before it are deleted again. */
async function makeVms(m: Making): Promise<Imported> {
  const { deps, ask, looked } = m;
  const writes = new VmWrites(deps);
  const made: { id: string; name: string; op: OpView | null }[] = [];
  const create = (body: RestBody<'vmCreate'>) =>
    writes.create({ ...(ask as never as Ask<'vmCreate'>), body, idempotencyKey: null });
  try {
    for (const vm of looked.plan.vms) {
      const { name } = vm.body;
      const had = deps.view.find('vm', name);
      if (had !== null) {
        made.push({ id: had, name, op: null });
        continue;
      }
      const { vmId, op } = await placed((mode) =>
        create(
          vmCreateSchema.parse({
            ...withDisks(m, vm, mode).body,
            ...(ask.body.start ? { power: 'running' } : {}),
          }),
        ),
      );
      made.push({ id: vmId, name, op: opView(deps.view, op) });
    }
  } catch (error) {
    if (!(error instanceof FlotillaError) || passing.has(error.code)) throw error;
    for (const { id: vm, op } of made)
      if (op !== null)
        await writes.remove({
          ...(ask as never as Ask<'vmDelete'>),
          params: { vm },
          query: { force: true },
          body: undefined,
          idempotencyKey: null,
        });
    throw error;
  }
  return {
    vapp: null,
    vms: made.map(({ id, name }) => ({ id, name })),
    ops: made.flatMap((x) => x.op ?? []),
    there: made.every((x) => x.op === null),
  };
}

/** Tries with disks that are their images' files; the node of these may have no room: then another one copies them. */
async function placed<T>(make: (mode: 'moved' | 'full') => Promise<T>): Promise<T> {
  try {
    return await make('moved');
  } catch (error) {
    if (!(error instanceof FlotillaError) || passing.has(error.code)) throw error;
    return make('full');
  }
}

/** Errors after which the same request goes on. */
const passing = new Set(['cancelled', 'timeout', 'node-unreachable', 'ledger-unavailable']);

/** Reads what was sent, without doing anything. @throws FlotillaError `bad-input` with file and line, `not-found` */
async function look(deps: ApiDeps, body: ImportBody, signal: AbortSignal): Promise<Looked> {
  const { view } = deps;
  if (body.pool !== undefined) await idOf(view, 'pool', body.pool);
  if (body.node !== undefined) await idOf(view, 'node', body.node);
  await view.ledger.refresh('network', 'vmSpec', 'vapp');
  const archive = OvfArchive.of(
    sentShelf(
      body.kind,
      body.file,
      body.files.map((f) => ({
        name: f.name,
        sizeBytes: f.sizeBytes,
        content: f.content === undefined ? null : Buffer.from(f.content, 'base64'),
      })),
    ),
  );
  const report = await archive.report({
    ...(body.deploymentOption === undefined ? {} : { configuration: body.deploymentOption }),
    ...(body.language === undefined ? {} : { language: body.language }),
    values: new Map(Object.entries(body.properties)),
    verify: false,
    nowMs: deps.clock.wallMs(),
    signal,
  });
  const networks = await networksOf(deps, report, body);
  const tag = `ovf-${report.descriptorSha256.slice(0, 12)}`;
  const plan = planImport(report, {
    networks,
    prefix: body.prefix,
    fetch: body.allowFetch,
    present: new Set(report.files.filter((f) => f.names.length > 0).map((f) => f.id)),
    tag,
    ...(body.pool === undefined ? {} : { pool: body.pool }),
    ...(body.node === undefined ? {} : { node: body.node }),
  });
  return { report, plan, networks, preview: previewOf(deps, { report, plan, networks }, body, tag) };
}

async function networksOf(
  { view }: ApiDeps,
  report: PackageReport,
  body: ImportBody,
): Promise<Map<string, string | null>> {
  const out = new Map<string, string | null>();
  const theirs = namesOf(report);
  for (const name of theirs) if (view.find('network', name) !== null) out.set(name, name);
  // Those that were of the vApp alone are made anew with it, also where its first one is still there.
  const own = body.vapp === undefined ? null : embeddedVapp(report);
  if (own !== null) for (const name of isolatedOf(own)) if (theirs.has(name)) out.set(name, name);
  for (const [name, ours] of Object.entries(body.networks)) {
    if (!theirs.has(name))
      throw new FlotillaError('bad-input', `The package has no network "${name}"`, {
        hint: `It has: ${[...theirs].join(', ')}.`,
      });
    if (ours !== null) await idOf(view, 'network', ours);
    out.set(name, ours);
  }
  return out;
}

const namesOf = (report: PackageReport): Set<string> =>
  new Set([
    ...report.networks.map((n) => n.name),
    ...report.systems.flatMap((s) => s.nics.flatMap((n) => n.network ?? [])),
  ]);

function previewOf(
  { view }: ApiDeps,
  { report, plan, networks }: Omit<Looked, 'preview'>,
  body: ImportBody,
  tag: string,
): ImportPreview {
  const unmapped = new Set(
    plan.unmapped.map((n) => plan.refusals.find((r) => r.startsWith(`say which network "${n}" is`))),
  );
  const { tables } = view.ledger;
  const taken = (kind: 'VM' | 'vApp', name: string) => ({
    about: 'name' as const,
    text: `there is a ${kind} "${name}" already: give a prefix or another name, or delete it`,
  });
  const names = plan.vms.flatMap((vm) => {
    const id = view.find('vm', vm.body.name);
    const spec = id === null ? undefined : tables.vmSpec.get(id)?.value;
    return spec === undefined || spec.tags.includes(tag) ? [] : [taken('VM', vm.body.name)];
  });
  const vappId = body.vapp === undefined ? null : view.find('vapp', body.vapp);
  const vapp = vappId === null ? undefined : tables.vapp.get(vappId)?.value;
  const licences = body.acceptEulas ? [] : report.eulas;
  return {
    package: {
      name: report.name,
      kind: report.kind,
      version: report.versionText ?? report.version,
      annotation: report.annotation,
      configuration: report.configuration,
      deploymentOptions: report.deploymentOptions.map(({ systems: _, ...o }) => o),
      networks: [...namesOf(report)].map(
        (name) => report.networks.find((n) => n.name === name) ?? { name, description: '' },
      ),
      properties: report.properties.map((p) => ({
        id: p.id,
        label: p.label,
        description: p.description,
        category: p.category,
        type: p.type,
        qualifiers: p.qualifiers,
        default: p.default,
        hasDefault: p.hasDefault,
        userConfigurable: p.userConfigurable,
        secret: p.secret,
      })),
      eulas: [...report.eulas],
      manifest:
        report.manifest === null
          ? null
          : {
              name: report.manifest.name,
              verified: [...report.manifest.verified],
              unverified: [...report.manifest.unverified],
            },
      signer:
        report.signer === null
          ? null
          : {
              subject: report.signer.subject,
              fingerprint256: report.signer.fingerprint256,
              selfSigned: report.signer.selfSigned,
              expired: report.signer.expired,
            },
      warnings: [...report.warnings],
    },
    images: plan.images.flatMap((image) => {
      const file = report.files.find((f) => f.id === image.file);
      if (file === undefined || (file.names.length === 0 && !file.remote)) return [];
      return [
        {
          name: image.name,
          files: [...file.names],
          url: file.remote ? file.href : null,
          iso: image.iso,
          gzip: file.compression !== null,
          storedBytes: file.storedBytes ?? 0,
          bytesMax: unpackedBytesMax(report, file),
          sha256: file.compression === null ? file.sha256 : null,
        },
      ];
    }),
    vms: plan.vms.map(({ system, body: b, changes }) => ({
      system,
      name: b.name,
      cpus: b.cpus ?? 1,
      memoryMiB: b.memoryMiB ?? 0,
      firmware: b.firmware ?? 'bios',
      disks: b.disks.map((d) => ({
        name: d.name ?? '',
        bus: d.bus ?? '',
        sizeBytes: d.sizeBytes ?? null,
        image: d.image ?? null,
      })),
      nics: (b.nics ?? []).map((n) => ({ network: n.network, model: n.model ?? 'virtio' })),
      cdroms: (b.cdroms ?? []).map((c) => c.image),
      changes: [...changes],
    })),
    stages: plan.stages.map((s) => ({ ...s, vms: [...s.vms] })),
    networks: Object.fromEntries(networks),
    problems: [
      ...plan.refusals.map((text) => ({
        about: unmapped.has(text) ? ('network' as const) : ('package' as const),
        text,
      })),
      ...(body.vapp === undefined ? names : []),
      ...(vapp === undefined || vapp.tags.includes(tag) ? [] : [taken('vApp', vapp.name)]),
      ...(licences.length === 0
        ? []
        : [{ about: 'licence' as const, text: `there are ${licences.length} licences to accept` }]),
    ],
    tag,
  };
}

/** The images that were uploaded for it. @throws FlotillaError `wrong-state`, `checksum-mismatch` */
function imagesOf({ view }: ApiDeps, preview: ImportPreview): Map<string, Image> {
  const out = new Map<string, Image>();
  for (const wanted of preview.images) {
    const id = view.find('image', wanted.name);
    const image = id === null ? undefined : view.ledger.tables.image.get(id)?.value;
    if (image?.state !== 'ready')
      throw new FlotillaError('wrong-state', `The image "${wanted.name}" is not here yet`, {
        hint: `Upload ${wanted.url ?? wanted.files.join(', ')} as an image of that name first.`,
      });
    if (wanted.sha256 !== null && image.sha256 !== wanted.sha256)
      throw new FlotillaError('checksum-mismatch', `The image "${wanted.name}" is not that of this package`, {
        hint: 'Delete it, and upload the one of the package; or give a prefix.',
      });
    out.set(wanted.name, image);
  }
  return out;
}

/** @param mode - `moved`: the image becomes the disk where nobody else needs it */
function withDisks({ ask, looked, images }: Making, vm: PlannedVm, mode: 'moved' | 'full'): PlannedVm {
  const users = looked.plan.vms.flatMap((v) => v.body.disks.map((d) => d.image));
  const disks = vm.body.disks.map((d) => {
    const image = d.image === undefined ? undefined : images.get(d.image);
    if (image === undefined) return d;
    const sizeBytes = Math.max(d.sizeBytes ?? 0, image.virtualSizeBytes);
    const alone = users.filter((u) => u === d.image).length === 1 && !ask.body.keepImages;
    const moved = mode === 'moved' && alone && sizeBytes === image.virtualSizeBytes && image.format !== 'iso';
    return {
      ...d,
      mode: moved ? ('moved' as const) : ('full' as const),
      ...(moved && image.format === 'raw' ? { format: 'raw' as const } : {}),
      ...(sizeBytes > 0 ? { sizeBytes } : {}),
    };
  });
  return { ...vm, body: { ...vm.body, disks } };
}
