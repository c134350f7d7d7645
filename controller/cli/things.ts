import { setTimeout as sleep } from 'node:timers/promises';
import { Option, type Command } from 'commander';
import type { NodeDrive } from '../../core/domain/node.js';
import { roleSchema, type Role } from '../../core/domain/user.js';
import type { PoolDrive } from '../../core/domain/pool.js';
import { errorRecord, FlotillaError } from '../../core/domain/error.js';
import { formatSize, formatSpan, parseSeconds } from '../../core/domain/units.js';
import type {
  NetworkView,
  NodeView,
  OpView,
  OpPartView,
  PoolView,
  RestCall,
  TokenView,
} from '../../core/wire/rest.js';
import { failoverFacts, keeperText } from './ha.js';
import { historyCommand } from './history.js';
import { collect, specOf, wholeNumber } from './input.js';
import { bar, opLine, waitSDefault, type Io } from './io.js';
import { certificatesOf } from './certificates.js';
import { nodeAdmitCommands } from './node-admit.js';
import { nodeDrainCommands } from './node-drain.js';
import { nodeUpdateCommands } from './node-update.js';
import { nodePowerCommands } from './node-power.js';
import { nodeSleepCommands } from './power.js';
import type { Column } from './table.js';
import { defined } from './vm.js';

const ago = (ms: number | null): string => (ms === null ? 'never' : `${formatSpan(Date.now() - ms)} ago`);

export function statusCommand(program: Command, io: Io): void {
  program
    .command('status')
    .description('is all well?')
    .action(async () => {
      const c = await (await io.client()).call('clusterGet', {});
      io.show(c, () => {
        const k = c.capacity;
        return [
          c.sentence,
          ...c.concerns.map((x) => `  ${x.level === 'error' ? '✗' : '!'} ${x.subject}: ${x.text}`),
          '',
          `memory  ${formatSize(k.memoryUsedBytes)} used, ${formatSize(k.memoryCommittedBytes)} promised of ${formatSize(k.memoryBytes)}`,
          `vCPUs   ${k.cpusCommitted} promised on ${k.cpus} CPUs`,
          `pools   ${formatSize(k.poolFreeBytes)} free of ${formatSize(k.poolBytes)}`,
          `ledger  ${c.ledger}, read ${formatSpan(c.ageMs)} ago`,
        ].join('\n');
      });
    });
}

const nodeStateText = ({ record, presence, live }: NodeView): string => {
  if (record.asleep !== undefined) return live ? `asleep, ${presence}` : 'asleep';
  return record.desired === 'active' ? presence : `${presence}, ${record.desired}`;
};

const nodeColumns: readonly Column<NodeView>[] = [
  { head: 'NAME', text: (n) => n.id },
  {
    head: 'STATE',
    text: (n) => nodeStateText(n),
  },
  { head: 'VMS', text: (n) => String(n.vms), right: true },
  {
    head: 'CPU',
    text: (n) => (n.state === null ? '' : `${Math.round(n.state.cpuUsedPct)} % of ${n.state.cpus}`),
    right: true,
    give: 3,
  },
  {
    head: 'MEMORY',
    text: (n) =>
      n.state === null ? '' : `${formatSize(n.state.memoryUsedBytes)} of ${formatSize(n.state.memoryBytes)}`,
    right: true,
    give: 2,
  },
  { head: 'ADDRESS', text: (n) => n.record.addresses[0] ?? '', give: 4 },
  { head: 'PROBLEMS', text: (n) => n.problems.join('; '), give: 1 },
];

const driveText = (d: NodeDrive): string =>
  [
    d.serial === '' ? 'no serial number' : d.serial,
    formatSize(d.sizeBytes),
    d.use === 'empty' ? 'empty' : d.text,
    d.health === null ? '' : d.health.well ? 'well' : d.health.text,
  ]
    .filter((w) => w !== '')
    .join(', ');

export function nodeCommands(program: Command, io: Io): void {
  const node = program.command('node').description('nodes');
  node
    .command('list')
    .alias('ls')
    .description('list nodes')
    .action(async () => {
      const rows: NodeView[] = [];
      for await (const page of (await io.client()).all('nodeList', {})) rows.push(...page.items);
      io.list(rows, nodeColumns, 'There are no nodes.');
    });
  node
    .command('show')
    .description('show one node')
    .argument('<node>')
    .action(async (name: string) => {
      const n = await (await io.client()).call('nodeGet', { params: { node: name } });
      const s = n.state;
      io.facts(n, [
        ['Name', n.id],
        ['State', `${n.presence}, heard ${ago(n.heardMs)}`],
        ['Wanted', n.record.desired],
        [
          'Asleep',
          n.record.asleep === undefined
            ? null
            : `since ${ago(n.record.asleep.sinceMs)}, by ${n.record.asleep.by}`,
        ],
        ['Address', n.record.addresses[0] ?? null],
        ['Storage address', n.record.addresses[1] ?? 'none: copies take the management network'],
        ['Rack', n.record.rack],
        ['Voter', n.record.voter ? 'yes' : 'no'],
        ['Lease', n.live ? 'held' : 'not held'],
        ['Keeper', n.record.witness ? null : keeperText(n)],
        [
          'VMs',
          `${n.vms}, ${n.committedCpus} vCPUs and ${formatSize(n.committedMemoryMiB * 2 ** 20)} promised`,
        ],
        [
          'CPU',
          s === null
            ? null
            : `${Math.round(s.cpuUsedPct)} % of ${s.cpus}, ${s.accel ?? 'accelerator not known'}`,
        ],
        ['Memory', s === null ? null : `${formatSize(s.memoryUsedBytes)} of ${formatSize(s.memoryBytes)}`],
        ['Model', s?.facts?.cpuModel ?? null],
        ...(s?.drives ?? []).map((d) => [`Drive ${d.device}`, driveText(d)] as const),
        ['System', s?.facts === null || s === null ? null : `${s.facts.os}, ${s.facts.kernel}`],
        [
          'Versions',
          s === null ? null : `agent ${s.version}, QEMU ${s.qemu ?? '?'}, libvirt ${s.libvirt ?? '?'}`,
        ],
        ['Fingerprint', n.record.fingerprint],
        ['Problems', n.problems.join('; ')],
      ]);
    });
  node
    .command('set')
    .description('change what a node shall be')
    .argument('<node>')
    .addOption(new Option('--desired <state>').choices(['active', 'maintenance', 'leaving']))
    .option('--rack <rack>', 'where it stands; "" for none')
    .option('--tags <tags>', 'what rules may name it by, comma-separated; "" for none')
    .option('--storage-address <ipv4>', 'where copies of disks reach it; "" for the management network')
    .action(
      async (
        name: string,
        o: {
          desired?: 'active' | 'maintenance' | 'leaving';
          rack?: string;
          tags?: string;
          storageAddress?: string;
        },
      ) => {
        const none = (s: string | undefined) => (s === '' ? null : s);
        const body = defined({
          desired: o.desired,
          rack: none(o.rack),
          tags: o.tags?.split(',').filter((x) => x !== ''),
          storageAddress: none(o.storageAddress),
        });
        const n = await (await io.client()).call('nodePatch', { params: { node: name }, body });
        const { desired, rack, tags = [], addresses } = n.record;
        io.show(n, () =>
          [
            `${n.id}: ${desired}`,
            ...(rack === null ? [] : [`rack ${rack}`]),
            ...(tags.length === 0 ? [] : [`tags ${tags.join(', ')}`]),
            ...(addresses[1] === undefined ? [] : [`storage address ${addresses[1]}`]),
          ].join(', '),
        );
      },
    );
  historyCommand(node, io, 'node');
  nodeAdmitCommands(node, io);
  nodeDrainCommands(node, io);
  nodeUpdateCommands(node, io);
  nodeSleepCommands(node, io);
  nodePowerCommands(node, io);
  node
    .command('remove')
    .description('take a node out of the cluster: its seat in the ledger is moved first')
    .argument('<node>')
    .action(async (name: string) => {
      const client = await io.client();
      const params = { node: name };
      await client.call('nodePatch', { params, body: { desired: 'leaving' } });
      const known = await certificatesOf(client, name);
      await removed(() => client.call('nodeDelete', { params }));
      const text =
        known.length > 0
          ? 'Its certificate is revoked: within a minute no node lets it in. Switch it off.'
          : 'Its certificate is not known to the cluster and could not be revoked: switch it off, and see docs/security.md.';
      io.show({ removed: name, revoked: known }, () => `Node ${name} is removed. ${text}`);
    });
}

/** How long moving a voter's seat may take, ms: etcd wants its voters connected for 5 s, and a learner caught up. */
const seatMs = 120_000;

/** Asks again while the node still votes, and while the ledger elects: the seat that moves may be its leader's. */
async function removed(ask: () => Promise<unknown>): Promise<void> {
  const endMs = performance.now() + seatMs;
  for (let again = false; ; again = true) {
    try {
      await ask();
      return;
    } catch (error) {
      const { code, details } = errorRecord(error);
      // The answer to the former try got lost.
      if (again && code === 'not-found') return;
      const waits =
        code === 'ledger-unavailable' || (details as { waitsFor?: string } | undefined)?.waitsFor === 'voter';
      if (!waits || performance.now() > endMs) throw error;
    }
    await sleep(1_000);
  }
}

const poolColumns: readonly Column<PoolView>[] = [
  { head: 'NAME', text: (p) => p.name },
  { head: 'KIND', text: (p) => p.kind },
  { head: 'NODES', text: (p) => p.nodes?.join(', ') ?? 'all', give: 3 },
  { head: 'PATH', text: (p) => p.path, give: 4 },
  {
    head: 'FREE',
    text: (p) =>
      p.use
        .map(
          (u) => `${u.node} ${u.ok ? `${formatSize(u.freeBytes)} of ${formatSize(u.totalBytes)}` : u.text}`,
        )
        .join(', '),
    give: 1,
  },
  { head: 'DISKS', text: (p) => String(p.disks), right: true, give: 2 },
  { head: 'IMAGES', text: (p) => String(p.images), right: true, give: 2 },
];

/** `n1:S3Z8NB0K` as the API takes it. */
function drivesOf(words: string[] | undefined, wipe: true | undefined): PoolDrive[] | undefined {
  return words?.map((w) => {
    const at = w.indexOf(':');
    return { node: w.slice(0, Math.max(0, at)), drive: w.slice(at + 1), wipe: wipe === true };
  });
}

export function poolCommands(program: Command, io: Io): void {
  const pool = program.command('pool').description('pools: where disks and images lie');
  pool
    .command('list')
    .alias('ls')
    .description('list pools')
    .action(async () => {
      const rows: PoolView[] = [];
      for await (const page of (await io.client()).all('poolList', {})) rows.push(...page.items);
      io.list(rows, poolColumns, 'There are no pools.');
    });
  pool
    .command('show')
    .description('show one pool')
    .argument('<pool>')
    .action(async (name: string) => {
      const p = await (await io.client()).call('poolGet', { params: { pool: name } });
      io.facts(p, [
        ['Name', p.name],
        ['Id', p.id],
        ['Kind', p.kind],
        ['Path', p.path],
        ['Nodes', p.nodes?.join(', ') ?? 'all'],
        ['Kept free', `${p.reservePct} %`],
        ...p.use.map(
          (u) =>
            [
              `On ${u.node}`,
              u.ok
                ? `${formatSize(u.freeBytes)} of ${formatSize(u.totalBytes)} free${u.thin === undefined ? '' : `, promised ${formatSize(u.thin.promisedBytes)}, metadata ${u.thin.metadataPct} % full`}${u.text === '' ? '' : `: ${u.text}`}`
                : u.text,
            ] as const,
        ),
        ['Drives', p.drives?.map((d) => `${d.node}:${d.drive}`).join(', ') ?? null],
        ['Holds', `${p.disks} disks, ${p.images} images`],
      ]);
    });
  pool
    .command('create')
    .description('enter a pool')
    .argument('[name]')
    .option('-f, --file <spec>', 'a spec; - is the standard input')
    .addOption(new Option('--kind <kind>').choices(['local', 'shared', 'thin']))
    .option('--path <dir>', 'the directory on each node')
    .option('--node <node>', 'only these nodes', collect)
    .option('--drive <node:serial>', 'drives of a thin pool (flotilla node show lists them)', collect)
    .option('--wipe', 'what is on those drives may be lost')
    .option('--reserve <percent>', 'kept free', wholeNumber)
    .action(
      async (
        name: string | undefined,
        o: {
          file?: string;
          kind?: string;
          path?: string;
          node?: string[];
          drive?: string[];
          wipe?: true;
          reserve?: number;
        },
      ) => {
        const spec = o.file === undefined ? {} : await specOf(io, o.file);
        const given = defined({
          name,
          kind: o.kind,
          path: o.path,
          nodes: o.node,
          drives: drivesOf(o.drive, o.wipe),
          reservePct: o.reserve,
        });
        const body = { ...spec, ...given } as RestCall<'poolCreate'>['body'];
        const p = await (await io.client()).call('poolCreate', { body });
        io.show(p, () => `Pool "${p.name}" is entered.`);
      },
    );
  pool
    .command('edit')
    .description('change a pool')
    .argument('<pool>')
    .option('--name <name>')
    .option('--node <node>', 'only these nodes', collect)
    .option('--all-nodes', 'every node')
    .option('--add-drive <node:serial>', 'drives added to a thin pool', collect)
    .option('--wipe', 'what is on those drives may be lost')
    .option('--reserve <percent>', 'kept free', wholeNumber)
    .action(
      async (
        name: string,
        o: {
          name?: string;
          node?: string[];
          allNodes?: true;
          addDrive?: string[];
          wipe?: true;
          reserve?: number;
        },
      ) => {
        const nodes = o.allNodes === true ? null : o.node;
        const addDrives = drivesOf(o.addDrive, o.wipe);
        const body = defined({ name: o.name, nodes, addDrives, reservePct: o.reserve });
        const p = await (await io.client()).call('poolPatch', { params: { pool: name }, body });
        io.show(p, () => `Pool "${p.name}" is changed.`);
      },
    );
  pool
    .command('delete')
    .alias('rm')
    .description('forget a pool that holds nothing')
    .argument('<pool>')
    .action(async (name: string) => {
      await (await io.client()).call('poolDelete', { params: { pool: name } });
      io.show({ deleted: name }, () => `${name}: deleted`);
    });
}

const networkColumns: readonly Column<NetworkView>[] = [
  { head: 'NAME', text: (n) => n.name },
  { head: 'BRIDGE', text: (n) => n.bridge },
  { head: 'UPLINK', text: (n) => n.uplink ?? '–', give: 2 },
  { head: 'SUBNET', text: (n) => n.subnet ?? '–', give: 1 },
  { head: 'RANGE', text: (n) => n.range?.join(' – ') ?? '–', give: 3 },
  { head: 'GATEWAY', text: (n) => n.gateway ?? '–', give: 3 },
  { head: 'NICS', text: (n) => String(n.nics), right: true },
];

interface NetworkOptions {
  file?: string;
  name?: string;
  bridge?: string;
  uplink?: string;
  subnet?: string;
  gateway?: string;
  dns?: string[];
  range?: string;
}

/** `--uplink none` and the like take a thing away. */
const orNone = (text: string | undefined): string | null | undefined => (text === 'none' ? null : text);

function networkBody(o: NetworkOptions): Record<string, unknown> {
  const range = o.range === undefined ? undefined : o.range === 'none' ? null : o.range.split(/\s*[-–,]\s*/);
  return defined({
    name: o.name,
    bridge: o.bridge,
    uplink: orNone(o.uplink),
    subnet: orNone(o.subnet),
    gateway: orNone(o.gateway),
    dns: o.dns,
    range,
  });
}

function networkOptions(c: Command): Command {
  return c
    .option('--bridge <bridge>', 'the bridge on each node')
    .option('--uplink <nic>', 'the nodes’ NIC in the bridge; none: isolated')
    .option('--subnet <cidr>', 'e.g. 10.0.0.0/24')
    .option('--gateway <address>')
    .option('--dns <address>', 'may be given again', collect)
    .option('--range <first-last>', 'addresses handed out, e.g. 10.0.0.10-10.0.0.99');
}

export function networkCommands(program: Command, io: Io): void {
  const network = program.command('network').alias('net').description('networks VMs attach to');
  network
    .command('list')
    .alias('ls')
    .description('list networks')
    .action(async () => {
      const rows: NetworkView[] = [];
      for await (const page of (await io.client()).all('networkList', {})) rows.push(...page.items);
      io.list(rows, networkColumns, 'There are no networks.');
    });
  network
    .command('show')
    .description('show one network')
    .argument('<network>')
    .action(async (name: string) => {
      const n = await (await io.client()).call('networkGet', { params: { network: name } });
      io.facts(n, [
        ['Name', n.name],
        ['Id', n.id],
        ['Bridge', n.bridge],
        ['Uplink', n.uplink ?? 'none'],
        ['Subnet', n.subnet],
        ['Gateway', n.gateway],
        ['DNS', n.dns.join(', ')],
        ['Range', n.range?.join(' – ') ?? null],
        ['NICs', String(n.nics)],
      ]);
    });
  networkOptions(network.command('create'))
    .description('make a network')
    .argument('[name]')
    .option('-f, --file <spec>', 'a spec; - is the standard input')
    .action(async (name: string | undefined, o: NetworkOptions) => {
      const spec = o.file === undefined ? {} : await specOf(io, o.file);
      const body = { ...spec, ...networkBody(o), ...defined({ name }) } as RestCall<'networkCreate'>['body'];
      const n = await (await io.client()).call('networkCreate', { body });
      io.show(n, () => `Network "${n.name}" is made.`);
    });
  networkOptions(network.command('edit'))
    .description('change a network')
    .argument('<network>')
    .option('--name <name>')
    .action(async (name: string, o: NetworkOptions) => {
      const body = networkBody(o) as RestCall<'networkPatch'>['body'];
      const n = await (await io.client()).call('networkPatch', { params: { network: name }, body });
      io.show(n, () => `Network "${n.name}" is changed.`);
    });
  network
    .command('delete')
    .alias('rm')
    .description('delete a network that no VM uses')
    .argument('<network>')
    .action(async (name: string) => {
      await (await io.client()).call('networkDelete', { params: { network: name } });
      io.show({ deleted: name }, () => `${name}: deleted`);
    });
}

const opColumns: readonly Column<OpView>[] = [
  { head: 'ID', text: (o) => o.id, give: 1 },
  { head: 'WHAT', text: (o) => o.kind },
  { head: 'SUBJECT', text: (o) => o.subject.name },
  { head: 'STATE', text: (o) => o.state },
  {
    head: 'DONE',
    text: (o) => (o.progress === null ? '' : `${Math.round(o.progress * 100)} %`),
    right: true,
    give: 3,
  },
  { head: 'BY', text: (o) => o.askedBy, give: 4 },
  { head: 'AGE', text: (o) => formatSpan(Date.now() - o.createdMs), give: 5 },
  { head: 'STEP', text: (o) => o.error?.message ?? o.step, give: 2 },
];

/** An operation's parts, each below what it is a part of. */
const partFacts = (parts: readonly OpPartView[]): (readonly [string, string])[] =>
  parts.map((p, i) => [
    i === 0 ? 'Parts' : ' ',
    `${'  '.repeat(p.depth)}${p.name}: ${p.state}${p.progress === null ? '' : ` ${Math.round(p.progress * 100)} %`}${p.text === '' ? '' : `, ${p.text}`}`,
  ]);

export function opCommands(program: Command, io: Io): void {
  const op = program.command('op').description('operations');
  op.command('list')
    .alias('ls')
    .description('list operations, newest first')
    .addOption(
      new Option('--state <state>').choices(['open', 'queued', 'running', 'done', 'failed', 'cancelled']),
    )
    .option('--limit <n>', 'at most so many', wholeNumber, 30)
    .action(async (o: { state?: 'open'; limit: number }) => {
      const query = { limit: o.limit, ...defined({ state: o.state }) } as RestCall<'opList'>['query'];
      const page = await (await io.client()).call('opList', { query });
      io.list(page.items, opColumns, 'There are no operations.');
    });
  op.command('show')
    .description('show one operation')
    .argument('<op>', 'its id')
    .action(async (id: string) => {
      const client = await io.client();
      const o = await client.call('opGet', { params: { op: id }, query: {} });
      const { items } = await client.call('opParts', { params: { op: id } });
      io.facts({ ...o, parts: items }, [
        ['Id', o.id],
        ['What', `${o.kind} of ${o.subject.kind} "${o.subject.name}"`],
        ['State', o.state],
        ['Progress', o.progress === null ? null : `${bar(o.progress)} ${Math.round(o.progress * 100)} %`],
        ['Step', o.step],
        ...failoverFacts(o),
        ['Node', o.node],
        ['Asked by', o.askedBy],
        ['Asked', ago(o.createdMs)],
        ['Last word', ago(o.updatedMs)],
        ['Cancel', o.cancelAsked ? 'asked for' : null],
        ['Error', o.error === null ? null : `${o.error.message} [${o.error.code}]`],
        ['Because', o.error?.causes.join(': ') ?? null],
        ['Hint', o.error?.hint ?? null],
        // A failover's are told above, with their times.
        ...(o.kind === 'vm.failover' ? [] : partFacts(items)),
      ]);
    });
  op.command('watch')
    .description('follow an operation to its end')
    .argument('<op>', 'its id')
    .option('--timeout <time>', 'how long', `${waitSDefault}s`)
    .action(async (id: string, o: { timeout: string }) => {
      const first = await (await io.client()).call('opGet', { params: { op: id }, query: {} });
      const done = await io.follow(first, { wait: true, timeout: o.timeout });
      io.show(done, () => opLine(done));
    });
  op.command('cancel')
    .description('ask that an operation stops')
    .argument('<op>', 'its id')
    .action(async (id: string) => {
      const o = await (await io.client()).call('opCancel', { params: { op: id } });
      io.show(o, () => `${o.kind} of "${o.subject.name}" was asked to stop.`);
    });
}

const tokenColumns: readonly Column<TokenView>[] = [
  { head: 'ID', text: (k) => k.id },
  { head: 'NAME', text: (k) => k.name },
  { head: 'KIND', text: (k) => k.kind },
  { head: 'ROLE', text: (k) => (k.kind === 'join' ? '' : k.role) },
  { head: 'USES LEFT', text: (k) => (k.usesLeft === null ? 'any' : String(k.usesLeft)), right: true },
  {
    head: 'EXPIRES',
    text: (k) =>
      k.expiresMs === null
        ? 'never'
        : k.expiresMs < Date.now()
          ? 'expired'
          : `in ${formatSpan(k.expiresMs - Date.now())}`,
  },
];

export function tokenCommands(program: Command, io: Io): void {
  const token = program
    .command('token')
    .description('join tokens admit nodes, API tokens people and programs');
  token
    .command('list')
    .alias('ls')
    .description('list tokens, without their secrets')
    .action(async () => {
      const rows: TokenView[] = [];
      for await (const page of (await io.client()).all('tokenList', {})) rows.push(...page.items);
      io.list(rows, tokenColumns, 'There are no tokens.');
    });
  token
    .command('create')
    .description('make a token; its text goes to the standard output this once')
    .argument('<name>')
    .addOption(new Option('--kind <kind>').choices(['join', 'api']).default('join'))
    .addOption(
      new Option('--role <role>', 'what an API token may; as much as you, unless told').choices(
        roleSchema.options,
      ),
    )
    .option('--ttl <time>', 'how long it is good, e.g. 7d; never: for ever')
    .option('--uses <n>', 'join tokens: how many nodes; 1 unless told', wholeNumber)
    .action(async (name: string, o: { kind: 'join' | 'api'; role?: Role; ttl?: string; uses?: number }) => {
      const ttlS = o.ttl === undefined ? undefined : o.ttl === 'never' ? null : parseSeconds(o.ttl, '--ttl');
      const body = { name, kind: o.kind, ...defined({ ttlS, uses: o.uses, role: o.role }) };
      const made = await (await io.client()).call('tokenCreate', { body });
      io.show(made, () => made.token);
    });
  token
    .command('delete')
    .alias('rm')
    .description('take a token back')
    .argument('<token>', 'name or id')
    .action(async (name: string) => {
      await (await io.client()).call('tokenDelete', { params: { token: name } });
      io.show({ deleted: name }, () => `${name}: deleted`);
    });
}

/** Wait before a broken event stream is opened again, ms. */
const reopenMs = 1_000;

export function eventsCommand(program: Command, io: Io): void {
  program
    .command('events')
    .description('what happens, as it happens')
    .option('-f, --follow', 'go on until stopped; otherwise: what is now, then end')
    .option('--kinds <kinds>', 'e.g. vm,op')
    .action(async (o: { follow?: true; kinds?: string }) => {
      const client = await io.client();
      const { signal } = io.terminal;
      let last: string | undefined;
      for (;;) {
        try {
          const stream = client.events({
            signal,
            ...(o.kinds === undefined ? {} : { kinds: o.kinds }),
            ...(last === undefined ? {} : { lastEventId: last }),
          });
          for await (const e of stream) {
            last = e.id;
            io.terminal.out(io.json ? `{"id":"${e.id}","kind":"${e.kind}","data":${e.data}}` : eventLine(e));
            if (o.follow !== true && e.kind === 'snapshot') return;
          }
        } catch (error) {
          if (signal.aborted) return;
          if (last === undefined || !(error instanceof FlotillaError)) throw error;
          io.say(`flotilla: ${error.message}; trying again\n`);
        }
        if (signal.aborted) return;
        await new Promise((go) => setTimeout(go, reopenMs));
      }
    });
}

function eventLine(e: { kind: string; data: string }): string {
  const time = new Date().toISOString().slice(11, 19);
  const d = JSON.parse(e.data) as Record<string, unknown>;
  const count = (k: string): number => (d[k] as unknown[] | undefined)?.length ?? 0;
  switch (e.kind) {
    case 'snapshot':
      return `${time} now: ${count('nodes')} nodes, ${count('vms')} VMs, ${count('ops')} operations`;
    case 'vm':
      return `${time} VM ${String(d['name'])}: ${String(d['phase'])} on ${String(d['node'])}${d['reason'] === '' ? '' : ` – ${String(d['reason'])}`}`;
    case 'node':
      return `${time} node ${String(d['id'])}: ${String(d['presence'])}`;
    case 'op':
      return `${time} ${opLine(d as unknown as OpView)}`;
    default:
      return `${time} ${e.kind} ${(d['name'] ?? d['id'] ?? '') as string}`;
  }
}
