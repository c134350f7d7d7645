import { Option, type Command } from 'commander';
import { isMap, isPair, isScalar, isSeq, LineCounter, parseDocument, stringify, type Node } from 'yaml';
import { FlotillaError } from '../../core/domain/error.js';
import { allocationText, failoverText } from '../../core/domain/vapp.js';
import type { VappApplied, VappDoc, VappView } from '../../core/wire/rest.js';
import { vappDocSchema } from '../../core/wire/rest.js';
import { collect } from './input.js';
import type { Io, WaitOptions } from './io.js';
import { readText } from './session.js';
import type { Column } from './table.js';
import { waiting } from './vm.js';

/** Largest document, characters: the API takes no more. */
const documentCharsMax = 1024 * 1024;

const usage = (message: string, hint: string, details?: unknown): FlotillaError =>
  new FlotillaError('bad-input', message, { hint, ...(details === undefined ? {} : { details }) });

/** A document as it stands in a file: what it says, and where each part of it stands. */
export class VappFile {
  readonly value: unknown;
  private readonly file: string;
  private readonly lines = new LineCounter();
  private readonly root: Node | null;

  /** @throws FlotillaError `bad-input`, with line and column */
  constructor(file: string, text: string) {
    this.file = file;
    if (text.length > documentCharsMax)
      throw usage(`${file} is too large`, `At most ${documentCharsMax} characters.`);
    const doc = parseDocument(text, { lineCounter: this.lines, prettyErrors: false, uniqueKeys: true });
    const [error] = doc.errors;
    if (error !== undefined)
      throw usage(`${this.at(error.pos[0])}: ${error.message}`, 'Correct the YAML there.');
    this.root = doc.contents;
    try {
      this.value = doc.toJS({ maxAliasCount: 20 });
    } catch (cause) {
      throw new FlotillaError('bad-input', `${file} cannot be read`, {
        hint: 'It has too many aliases.',
        cause,
      });
    }
  }

  /** @throws FlotillaError `bad-input`: each fault with its line and column */
  document(): VappDoc {
    const r = vappDocSchema.safeParse(this.value);
    if (r.success) return this.value as VappDoc;
    throw this.refusal(r.error.issues.map((i) => ({ path: i.path.map(String), message: i.message })));
  }

  /** Faults named by their place in the document. */
  refusal(faults: readonly { readonly path: readonly string[]; readonly message: string }[]): FlotillaError {
    const details = faults.slice(0, 16).map(({ path, message }) => {
      const { line, column } = this.place(path);
      return { file: this.file, line, column, path: path.join('.'), message };
    });
    const text = details.map(
      (d) => `${d.file}:${d.line}:${d.column}: ${d.path === '' ? '' : `${d.path}: `}${d.message}`,
    );
    return usage(text.join('\n'), 'Nothing was changed. The schema is in docs/vapp.schema.json.', details);
  }

  /** The server's refusal with the lines it is about; as it is where it is about none. */
  placed(e: unknown): unknown {
    if (!(e instanceof FlotillaError) || !Array.isArray(e.details)) return e;
    const faults = (e.details as { path?: unknown; message?: unknown }[]).flatMap(({ path, message }) =>
      typeof path === 'string' && typeof message === 'string'
        ? [{ path: path.replace(/^document\.?/, '').split('.'), message }]
        : [],
    );
    return faults.length === 0 ? e : this.refusal(faults);
  }

  /** Where a part of the document begins; of what is not there, what it would be in. */
  private place(path: readonly string[]): { line: number; column: number } {
    let node: Node | null = this.root;
    let offset = this.root?.range?.[0] ?? 0;
    for (const key of path) {
      if (isMap(node)) {
        const pair = node.items.find((p) => isPair(p) && isScalar(p.key) && String(p.key.value) === key);
        if (pair === undefined) break;
        offset = (pair.key as Node).range?.[0] ?? offset;
        node = pair.value as Node | null;
      } else if (isSeq(node)) {
        const item = node.items[Number(key)] as Node | undefined;
        if (item === undefined) break;
        offset = item.range?.[0] ?? offset;
        node = item;
      } else break;
    }
    const { line, col } = this.lines.linePos(offset);
    return { line: Math.max(1, line), column: Math.max(1, col) };
  }

  private at(offset: number): string {
    const { line, col } = this.lines.linePos(offset);
    return `${this.file}:${line}:${col}`;
  }
}

export interface ValueOptions {
  set?: string[];
  values?: string;
}

type ApplyOptions = WaitOptions &
  ValueOptions & {
    file: string;
    start?: true;
    acceptEulas?: true;
    dryRun?: true;
  };

async function readVapp(io: Io, file: string): Promise<VappFile> {
  return new VappFile(file, file === '-' ? await io.stdin() : await readText(file, 'The document'));
}

/** A YAML file of names. @param what - of its refusal */
export async function readMapping(file: string, what: string): Promise<Record<string, unknown>> {
  const said = new VappFile(file, await readText(file, what)).value;
  if (typeof said === 'object' && said !== null && !Array.isArray(said))
    return said as Record<string, unknown>;
  throw usage(`${file} is no mapping of names to values`, 'e.g. "password: …" on a line.');
}

/** `--set k=v` over what a values file says. Secrets go into the file: command lines are for all to read. */
export async function valuesOf(
  o: ValueOptions,
  isSecret: (property: string) => boolean,
): Promise<Record<string, string | number | boolean>> {
  const out: Record<string, string | number | boolean> = {};
  if (o.values !== undefined) {
    for (const [k, v] of Object.entries(await readMapping(o.values, 'The values'))) {
      if (typeof v !== 'string' && typeof v !== 'number' && typeof v !== 'boolean')
        throw usage(`${o.values}: "${k}" is no text, number, true or false`, 'Write it on one line.');
      out[k] = v;
    }
  }
  for (const s of o.set ?? []) {
    const eq = s.indexOf('=');
    if (eq < 1) throw usage(`"${s.slice(0, 60)}" is not NAME=VALUE`, 'e.g. --set port=8080');
    const name = s.slice(0, eq);
    if (isSecret(name))
      throw usage(
        `"${name}" is secret, and command lines are for all to read`,
        'Give it in a file: --values FILE.',
      );
    out[name] = s.slice(eq + 1);
  }
  return out;
}

async function sent(io: Io, o: ApplyOptions, dryRun: boolean): Promise<VappApplied> {
  const file = await readVapp(io, o.file);
  const document = file.document();
  const values = await valuesOf(o, (p) => document.properties?.[p]?.secret === true);
  const body = {
    document,
    values,
    dryRun,
    start: o.start === true,
    acceptEulas: o.acceptEulas === true,
  };
  try {
    return await (await io.client()).call('vappApply', { body });
  } catch (e) {
    throw file.placed(e);
  }
}

const marks = { make: '+', change: '~', remove: '-' } as const;

function changesText(r: VappApplied): string {
  if (r.changes.length === 0) return 'Nothing is different.';
  return [
    ...r.changes.map((c) => `${marks[c.do]} ${c.text}`),
    ...(r.placement.length === 0
      ? []
      : [
          `on ${r.placement.map((p) => `${p.member}: ${p.node}${p.standby === null ? '' : ` (standby ${p.standby})`}`).join(', ')}`,
        ]),
    ...r.warnings.map((w) => `! ${w}`),
  ].join('\n');
}

/** What becomes of it, to its end. */
async function followed(io: Io, r: VappApplied, o: WaitOptions): Promise<void> {
  const op = r.op === null ? null : await io.follow(r.op, o);
  const vapp =
    r.vapp === null ? null : await (await io.client()).call('vappGet', { params: { vapp: r.vapp.id } });
  io.show({ ...r, op, vapp }, () => `vApp "${vapp?.name ?? ''}": ${op?.step ?? 'changed'}`);
}

/** A copy that is made, or what it would be. */
export async function appliedText(io: Io, r: VappApplied, o: WaitOptions & { dryRun?: true }): Promise<void> {
  if (o.dryRun === true) {
    io.show(r, () => changesText(r));
    return;
  }
  io.say(`${changesText(r)}\n`);
  await followed(io, r, o);
}

const columns: readonly Column<VappView>[] = [
  { head: 'NAME', text: (v) => v.name },
  { head: 'STATE', text: (v) => v.state },
  {
    head: 'MEMBERS',
    text: (v) => `${v.members.filter((m) => m.phase === 'running').length} of ${v.members.length} run`,
  },
  { head: 'NETWORKS', text: (v) => v.networks.map((n) => n.name).join(', '), give: 2 },
  { head: 'OWNER', text: (v) => v.owner, give: 1 },
  { head: 'TAGS', text: (v) => v.tags.join(', '), give: 1 },
];

const applying = (c: Command): Command =>
  c
    .requiredOption('-f, --file <document>', 'a document of kind VApp; - is the standard input')
    .option('--set <name=value>', 'value of a property', collect)
    .option('--values <file>', 'values of properties, as YAML; secret ones only so');

const actions = {
  start: 'start its VMs in their order, with what is waited for',
  stop: 'shut its VMs down in their order',
  'force-stop': 'switch its VMs off',
  suspend: 'have its VMs stand still, memory kept on their nodes: a node that goes off loses it',
  resume: 'let what is suspended go on, in its order',
} as const;

export function vappCommands(program: Command, io: Io): void {
  waiting(applying(program.command('apply')))
    .description('make a vApp of a document, or change what is otherwise')
    .option('--start', 'start what is made')
    .option('--accept-eulas', 'its licences are accepted')
    .option('--dry-run', 'say only what would change')
    .action(async (o: ApplyOptions) => {
      const would = await sent(io, o, true);
      if (o.dryRun === true || would.changes.length === 0) {
        io.show(would, () => changesText(would));
        return;
      }
      io.say(`${changesText(would)}\n`);
      await followed(io, await sent(io, o, false), o);
    });
  applying(program.command('diff'))
    .description('what apply would change')
    .action(async (o: ApplyOptions) => {
      const r = await sent(io, { ...o, wait: false, timeout: '0' }, true);
      io.show(r, () => changesText(r));
    });
  const vapp = program.command('vapp').description('vApps: VMs handled as one');
  vapp
    .command('export')
    .description('a vApp as the document that makes its like; without values of secret properties')
    .argument('<vapp>')
    .option('--template', 'without MACs and addresses: for another one beside it')
    .action(async (name: string, o: { template?: true }) => {
      const d = await (
        await io.client()
      ).call('vappDocument', {
        params: { vapp: name },
        query: { template: o.template === true ? 'true' : 'false' },
      });
      io.show(d, () => stringify(d, { lineWidth: 0 }).trimEnd());
    });
  vapp
    .command('list')
    .alias('ls')
    .description('list vApps')
    .action(async () => {
      const rows: VappView[] = [];
      for await (const page of (await io.client()).all('vappList', {})) rows.push(...page.items);
      io.list(rows, columns, 'There are no vApps. See flotilla apply.');
    });
  vapp
    .command('show')
    .description('show one vApp')
    .argument('<vapp>')
    .action(async (name: string) => {
      const v = await (await io.client()).call('vappGet', { params: { vapp: name } });
      io.facts(v, [
        ['Name', v.name],
        ['State', v.state],
        ['Note', v.note],
        ['Owner', v.owner],
        ['Class', v.className],
        ['Tags', v.tags.join(', ')],
        ...v.networks.map(
          (n) =>
            [
              `Network ${n.name}`,
              `${n.networkName}${n.own ? ', isolated' : ''}${n.subnet === null ? '' : `, ${n.subnet}`}`,
            ] as const,
        ),
        ...v.members.map(
          (m) =>
            [
              `Member ${m.group === null ? '' : `${m.group}/`}${m.name}`,
              `${m.vmName}: ${m.phase} on ${m.node ?? 'no node'}, order ${m.start.order}${m.addresses.length === 0 ? '' : `, ${m.addresses.join(' ')}`}`,
            ] as const,
        ),
        ...v.properties.map(
          (p) =>
            [`Property ${p.name}`, p.secret ? 'secret' : String(p.value ?? p.default ?? 'none')] as const,
        ),
        ['After a failover', v.failover === 'members' ? '' : failoverText[v.failover]],
        ['Memory', v.memoryAllocation && allocationText(v.memoryAllocation, 'MiB')],
        ['CPU', v.cpuAllocation && allocationText(v.cpuAllocation, 'MHz')],
        ...v.rules.map((r) => [`${r.must ? 'Must be' : 'Better'} ${r.kind}`, r.members.join(', ')] as const),
      ]);
    });
  waiting(vapp.command('clone'))
    .description('make another vApp that begins as this one is now, beside it: all of it or nothing')
    .argument('<vapp>')
    .argument('<name>', 'the new one')
    .addOption(
      new Option('--linked', 'store only what differs; the original is kept for that').conflicts('full'),
    )
    .option('--full', 'copy all of it; usual')
    .option('--set <name=value>', 'another value of a property', collect)
    .option('--values <file>', 'other values of properties, as YAML; secret ones only so')
    .option('--start', 'start it when it is made')
    .option('--dry-run', 'say only what would be made')
    .action(
      async (
        ref: string,
        name: string,
        o: WaitOptions & ValueOptions & { linked?: true; start?: true; dryRun?: true },
      ) => {
        const client = await io.client();
        const of = await client.call('vappGet', { params: { vapp: ref } });
        const secret = (p: string): boolean => of.properties.some((x) => x.name === p && x.secret);
        const r = await client.call('vappClone', {
          params: { vapp: of.id },
          body: {
            name,
            linked: o.linked === true,
            values: await valuesOf(o, secret),
            start: o.start === true,
            dryRun: o.dryRun === true,
          },
        });
        await appliedText(io, r, o);
      },
    );
  for (const action of ['start', 'stop', 'force-stop', 'suspend', 'resume'] as const) {
    waiting(vapp.command(action))
      .description(actions[action])
      .argument('<vapp>')
      .option('--group <name>', 'only this vApp nested in it')
      .action(async (name: string, o: WaitOptions & { group?: string }) => {
        const { op } = await (
          await io.client()
        ).call('vappAction', {
          params: { vapp: name, action },
          body: { group: o.group ?? null },
        });
        const end = await io.follow(op, o);
        io.show(end, () => `vApp "${name}": ${end.step || end.state}`);
      });
  }
  waiting(vapp.command('delete'))
    .description('delete it with its VMs, their disks and its own networks')
    .argument('<vapp>')
    .option('--force', 'also while they run')
    .action(async (name: string, o: WaitOptions & { force?: true }) => {
      const { op } = await (
        await io.client()
      ).call('vappDelete', {
        params: { vapp: name },
        query: { force: o.force === true ? 'true' : 'false' },
      });
      const end = await io.follow(op, o);
      io.show(end, () => `vApp "${name}": ${end.step || end.state}`);
    });
}
