import { Option, type Command } from 'commander';
import { copyLine } from '../../core/domain/copy-words.js';
import { isReplicated } from '../../core/domain/disk.js';
import { isDetached } from '../../core/domain/vm.js';
import { FlotillaError } from '../../core/domain/error.js';
import { formatSize, formatSpan, parseSeconds } from '../../core/domain/units.js';
import type { RestCall, VmRow, VmView } from '../../core/wire/rest.js';
import { failoverFacts } from './ha.js';
import { collect, diskOf, growOf, memoryMiB, nicOf, settingOf, specOf, wholeNumber } from './input.js';
import { waitSDefault, type Io, type WaitOptions } from './io.js';
import { bulk, bulkCommand } from './bulk.js';
import { historyCommand } from './history.js';
import { copiesCommands } from './copies.js';
import { diskMoveCommand } from './disk-move.js';
import { migrateCommand } from './migrate.js';
import { protectCommand } from './protect.js';
import { cloneCommand } from './snapshot.js';
import { readText } from './session.js';
import type { Column } from './table.js';
import { settingWords } from '../../core/decide/service-class.js';
import { haBody, haFacts, haOptions, haWord, type HaOptions } from './vm-ha.js';

/** A VM is looked at so often while it is waited for, ms. */
const lookMs = 500;
/** Failovers told of with a VM; all: `flotilla ha failovers`. */
const failoversShown = 2;

export const vmColumns: readonly Column<VmRow>[] = [
  { head: 'NAME', text: (v) => v.name },
  { head: 'STATE', text: (v) => v.phase + (v.pendingRestart.length > 0 ? ' (restart pending)' : '') },
  { head: 'NODE', text: (v) => v.node ?? '–' },
  { head: 'HA', text: haWord, give: 2 },
  { head: 'CPUS', text: (v) => String(v.cpus), right: true, give: 4 },
  { head: 'CPU', text: (v) => (v.cpuPct === null ? '' : `${Math.round(v.cpuPct)} %`), right: true, give: 5 },
  { head: 'MEMORY', text: (v) => formatSize(v.memoryMiB * 2 ** 20), right: true, give: 2 },
  { head: 'DISKS', text: (v) => formatSize(v.diskBytes), right: true, give: 4 },
  { head: 'ADDRESSES', text: (v) => v.addresses.join(', '), give: 1 },
  { head: 'UP', text: (v) => (v.upSinceMs === null ? '' : formatSpan(Date.now() - v.upSinceMs)), give: 6 },
  { head: 'NOTE', text: (v) => v.reason, give: 3 },
];

/** Adds `--wait/--no-wait` and `--timeout`. */
export function waiting(c: Command): Command {
  return c
    .option('--wait', 'wait until it is done (default)', true)
    .option('--no-wait', 'come back as soon as it is accepted')
    .option('--timeout <time>', 'how long to wait, e.g. 90s or 10m', `${waitSDefault}s`);
}

type CreateOptions = WaitOptions &
  HaOptions & {
    file?: string;
    cpus?: number;
    memory?: number;
    image?: string;
    size?: string;
    linked?: true;
    disk?: string[];
    nic?: string[];
    iso?: string[];
    firmware?: string;
    boot?: string;
    user?: string;
    hostname?: string;
    sshKey?: string[];
    userData?: string;
    networkConfig?: string;
    note?: string;
    tag?: string[];
    node?: string;
    pool?: string;
    start?: true;
    stopTimeout?: string;
    onCrash?: string;
    autoMove?: 'yes' | 'never';
    cpuShares?: number;
    class?: string;
  };

export function vmCommands(program: Command, io: Io): void {
  const vm = program.command('vm').description('VMs: the machines people own');

  vm.command('list')
    .alias('ls')
    .description('list VMs')
    .option('--node <node>', 'only those of this node')
    .option('--state <phase>', 'only those in this state')
    .option('--tag <tag>', 'only those with this tag')
    .option('--network <network>', 'only those with a card on this network')
    .option('--name <part>', 'only those with this in their name')
    .action(async (o: { node?: string; state?: string; tag?: string; network?: string; name?: string }) => {
      const client = await io.client();
      const rows: VmRow[] = [];
      let old: number | null = null;
      const query = defined({
        node: o.node,
        phase: o.state,
        tag: o.tag,
        network: o.network,
        name: o.name,
      }) as RestCall<'vmList'>['query'];
      for await (const page of client.all('vmList', query)) {
        rows.push(...page.items);
        if (page.ledger === 'stale') old = page.ageMs;
      }
      io.list(rows, vmColumns, 'There are no VMs.');
      if (old !== null) io.say(`The ledger cannot be read now: this is ${formatSpan(old)} old.`);
    });

  vm.command('show')
    .description('show one VM')
    .argument('<vm>', 'name or id')
    .action(async (name: string) => {
      const client = await io.client();
      const v = await client.call('vmGet', { params: { vm: name } });
      const query = { kind: 'vm.failover', subject: v.id, limit: failoversShown } as const;
      const { items } = await client.call('opList', { query });
      io.facts(v, [...vmFacts(v), ...items.flatMap(failoverFacts)]);
    });

  createOptions(vm.command('create'))
    .description('make a VM; placement picks its node')
    .argument('[name]', 'its name, unless the spec has it')
    .option('--node <node>', 'the node that shall own it')
    .option('--start', 'start it at once')
    .action(async (name: string | undefined, o: CreateOptions) => {
      const body = await createBody(io, name, o);
      const r = await (await io.client()).call('vmCreate', { body: body as RestCall<'vmCreate'>['body'] });
      for (const w of r.warnings) io.say(`Warning: ${w}`);
      await io.follow(r.op, o);
      await shown(io, r.vm.id, o, `VM "${r.vm.name}" is made on ${r.vm.node}.`);
    });

  createOptions(vm.command('edit'))
    .description('change a VM')
    .argument('<vm>', 'name or id')
    .option('--name <name>', 'its new name')
    .option('--add-disk <spec>', 'as --disk of create', collect)
    .option('--remove-disk <disk>', 'delete a disk and its data', collect)
    .option('--detach-disk <disk>', 'take a disk out of the machine; its data stay with the VM', collect)
    .option('--attach-disk <disk>', 'put it back', collect)
    .option('--grow-disk <disk=size>', 'enlarge a disk, also while the VM runs', collect)
    .option('--add-nic <spec>', 'as --nic of create', collect)
    .option('--remove-nic <nic>', 'by MAC or id', collect)
    .option('--eject', 'empty all CD drives')
    .option('--as-class <setting>', 'what it has of its own is as its class says again', collect)
    .option('--if-generation <n>', 'only if nobody has changed it since', wholeNumber)
    .action(async (name: string, o: EditOptions) => {
      const body = await editBody(io, o);
      const client = await io.client();
      const r = await client.call(
        'vmPatch',
        { params: { vm: name }, body: body },
        o.ifGeneration === undefined ? {} : { ifMatch: `"${o.ifGeneration}"` },
      );
      await io.follow(r.op, o);
      await shown(io, r.vm.id, o, `VM "${r.vm.name}" is at generation ${r.vm.generation}.`);
    });

  const actions: readonly [RestCall<'vmAction'>['params']['action'], string][] = [
    ['start', 'start a VM'],
    ['stop', 'ask the guest to shut down; forced off after its stop time-out'],
    ['force-stop', 'switch a VM off at once'],
    ['reboot', 'ask the guest to reboot'],
    ['reset', 'reset a VM at once'],
    ['pause', 'pause a VM'],
    ['resume', 'let a paused VM go on'],
  ];
  for (const [action, text] of actions) {
    waiting(vm.command(action).description(text).argument('<vm...>', 'names or ids')).action(
      async (names: string[], o: WaitOptions) => {
        if (names.length > 1) {
          await bulk(io, action, names, o);
          return;
        }
        const client = await io.client();
        const all = names.map(async (name) => {
          const r = await client.call('vmAction', { params: { vm: name, action } });
          for (const w of r.warnings) io.say(`Warning: ${w}`);
          return io.follow(r.op, o);
        });
        await settle(all, io, (op) => `${op.subject.name}: ${op.step === '' ? op.state : op.step}`);
      },
    );
  }

  bulkCommand(vm, io);
  migrateCommand(vm, io);
  protectCommand(vm, io);
  cloneCommand(vm, io);
  historyCommand(vm, io, 'vm');
  copiesCommands(vm, io);
  diskMoveCommand(vm, io);

  waiting(vm.command('delete'))
    .alias('rm')
    .description('delete VMs and their disks')
    .argument('<vm...>', 'names or ids')
    .option('--force', 'also when running')
    .action(async (names: string[], o: WaitOptions & { force?: true }) => {
      const client = await io.client();
      const query = o.force === true ? ({ force: 'true' } as const) : {};
      const all = names.map(async (name) => {
        const r = await client.call('vmDelete', { params: { vm: name }, query });
        return io.follow(r.op, o);
      });
      await settle(all, io, (op) => `${op.subject.name}: ${op.state === 'done' ? 'deleted' : op.state}`);
    });

  vmWaitCommand(vm.command('wait'), io);
}

/** `flotilla vm wait`, `flotilla wait vm` */
export function vmWaitCommand(c: Command, io: Io): void {
  c.description('wait until a VM is in a state')
    .argument('<vm>', 'name or id')
    .addOption(
      new Option('--for <what>', 'what to wait for')
        .choices(['running', 'stopped', 'paused', 'address', 'guest-agent', 'gone'])
        .default('running'),
    )
    .option('--timeout <time>', 'how long to wait', '5m')
    .action(async (name: string, o: { for: string; timeout: string }) => {
      const v = await waitFor(io, name, o);
      io.show(v, () => (v === null ? `${name} is gone.` : [v.phase, ...v.addresses].join(' ')));
    });
}

type EditOptions = CreateOptions & {
  name?: string;
  addDisk?: string[];
  removeDisk?: string[];
  growDisk?: string[];
  detachDisk?: string[];
  attachDisk?: string[];
  addNic?: string[];
  removeNic?: string[];
  eject?: true;
  asClass?: string[];
  ifGeneration?: number;
};

function createOptions(c: Command): Command {
  const create = c.name() === 'create';
  c.option('-f, --file <spec>', 'a spec of YAML or JSON; - is the standard input')
    .option('--cpus <n>', 'virtual CPUs', wholeNumber)
    .option('--memory <size>', 'e.g. 2G', memoryMiB)
    .addOption(new Option('--firmware <kind>').choices(['bios', 'uefi']))
    .option('--boot <order>', 'e.g. disk,cdrom,network')
    .option('--iso <image...>', 'ISO images in its CD drives')
    .option('--hostname <name>', 'cloud-init: the guest’s host name')
    .option('--user <login>', 'cloud-init: a login to make')
    .option('--ssh-key <file>', 'cloud-init: a file of public keys', collect)
    .option('--user-data <file>', 'cloud-init: whole user-data')
    .option('--network-config <file>', 'cloud-init: whole network-config')
    .option('--note <text>', 'for people')
    .option('--tag <tag>', 'may be given again', collect)
    .option('--stop-timeout <time>', 'how long a guest may take to shut down')
    .addOption(new Option('--on-crash <what>').choices(['restart', 'stop']))
    .addOption(new Option('--auto-move <when>', 'whether balancing may move it').choices(['yes', 'never']))
    .option('--cpu-shares <n>', 'weight where CPUs are short; 100 is usual', wholeNumber)
    .option('--class <class>', 'its service class; what is said here itself stays its own; none for none');
  if (create) {
    c.option('--image <image>', 'its first disk is a copy of this image')
      .option('--size <size>', 'size of that first disk, e.g. 10G')
      .option('--linked', 'store only what differs from the image')
      .option('--pool <pool>', 'pool of that first disk')
      .option(
        '--disk <spec>',
        'size=10G,pool=…,replicas=1|2,name=…,image=…,bus=…,format=…,mode=full|linked',
        collect,
      )
      .option('--nic <spec>', 'network=lan,address=…|auto|none,mac=…,model=…', collect);
  }
  return waiting(haOptions(c));
}

/** The fields that create and edit share. */
async function commonBody(o: CreateOptions): Promise<Record<string, unknown>> {
  return defined({
    cpus: o.cpus,
    memoryMiB: o.memory,
    firmware: o.firmware,
    boot: o.boot?.split(','),
    note: o.note,
    tags: o.tag,
    onCrash: o.onCrash,
    autoMove: o.autoMove === undefined ? undefined : o.autoMove === 'yes',
    cpuShares: o.cpuShares,
    class: o.class === 'none' ? null : o.class,
    ha: haBody(o),
    stopTimeoutS: o.stopTimeout === undefined ? undefined : parseSeconds(o.stopTimeout, '--stop-timeout'),
    cloudInit: await cloudInitOf(o),
    cdroms: o.iso?.map((image) => ({ image })),
  });
}

async function cloudInitOf(o: CreateOptions): Promise<Record<string, unknown> | undefined> {
  const keys: string[] = [];
  for (const file of o.sshKey ?? []) {
    const lines = (await readText(file, 'The SSH key')).split('\n').map((l) => l.trim());
    if (lines.some((l) => l.includes('PRIVATE KEY'))) {
      throw new FlotillaError('bad-input', `${file} is a private key`, {
        hint: 'Give the public one: FILE.pub',
      });
    }
    keys.push(...lines.filter((l) => l !== '' && !l.startsWith('#')));
  }
  const all = defined({
    hostname: o.hostname,
    user: o.user,
    sshKeys: keys.length > 0 ? keys : undefined,
    userData: o.userData === undefined ? undefined : await readText(o.userData, 'The user-data'),
    networkConfig:
      o.networkConfig === undefined ? undefined : await readText(o.networkConfig, 'The network-config'),
  });
  return Object.keys(all).length === 0 ? undefined : all;
}

async function createBody(
  io: Io,
  name: string | undefined,
  o: CreateOptions,
): Promise<Record<string, unknown>> {
  const spec = o.file === undefined ? {} : await specOf(io, o.file);
  const disks = (o.disk ?? []).map(diskOf);
  if (o.image !== undefined || o.size !== undefined) {
    const size = o.size === undefined ? {} : diskOf(o.size);
    disks.unshift(
      defined({ image: o.image, pool: o.pool, mode: o.linked === true ? 'linked' : undefined, ...size }),
    );
  }
  const body = {
    ...spec,
    ...(await commonBody(o)),
    ...defined({
      name,
      node: o.node,
      power: o.start === true ? 'running' : undefined,
      disks: disks.length > 0 ? disks : undefined,
      nics: o.nic?.map(nicOf),
    }),
  };
  if (!('name' in body)) {
    throw new FlotillaError('bad-input', 'The VM has no name', {
      hint: 'flotilla vm create NAME, or name it in the spec.',
    });
  }
  // A cloud image without any data would let nobody in: an empty seed still sets the host name.
  return body;
}

async function editBody(io: Io, o: EditOptions): Promise<Record<string, unknown>> {
  const body = {
    ...(o.file === undefined ? {} : await specOf(io, o.file)),
    ...(await commonBody(o)),
    ...defined({
      name: o.name,
      addDisks: o.addDisk?.map(diskOf),
      removeDisks: o.removeDisk,
      growDisks: o.growDisk?.map(growOf),
      detachDisks: o.detachDisk,
      attachDisks: o.attachDisk,
      addNics: o.addNic?.map(nicOf),
      removeNics: o.removeNic,
      asClass: o.asClass?.map(settingOf),
      ...(o.eject === true ? { cdroms: [] } : {}),
    }),
  };
  if (Object.keys(body).length > 0) return body;
  throw new FlotillaError('bad-input', 'Nothing is named to change', {
    hint: 'See: flotilla vm edit --help',
  });
}

async function shown(io: Io, id: string, o: WaitOptions, text: string): Promise<void> {
  const v = await (await io.client()).call('vmGet', { params: { vm: id } });
  const waits =
    v.pendingRestart.length > 0 && o.wait ? `\nWaits for a restart: ${v.pendingRestart.join('; ')}.` : '';
  io.show(v, () => text + waits);
}

/** Ends all, tells each, and fails with the first failure. */
async function settle<T>(all: readonly Promise<T>[], io: Io, text: (v: T) => string): Promise<void> {
  const results = await Promise.allSettled(all);
  const ok = results.flatMap((r) => (r.status === 'fulfilled' ? [r.value] : []));
  if (ok.length > 0) io.show(results.length === 1 ? ok[0] : ok, () => ok.map(text).join('\n'));
  const failed = results.filter((r) => r.status === 'rejected');
  const [first, ...more] = failed;
  for (const f of more)
    io.terminal.err(`flotilla: ${f.reason instanceof Error ? f.reason.message : String(f.reason)}\n`);
  if (first !== undefined) throw first.reason;
}

async function waitFor(io: Io, name: string, o: { for: string; timeout: string }): Promise<VmView | null> {
  const client = await io.client();
  const endMs = Date.now() + parseSeconds(o.timeout, '--timeout') * 1000;
  for (;;) {
    const v = await client.call('vmGet', { params: { vm: name } }).catch((error: unknown) => {
      const gone = error instanceof FlotillaError && error.code === 'not-found';
      if (gone && o.for === 'gone') return null;
      throw error;
    });
    if (v === null) return null;
    const there =
      o.for === 'address'
        ? v.addresses.length > 0 && v.phase === 'running'
        : o.for === 'guest-agent'
          ? v.guestAgent
          : v.phase === o.for;
    if (there && o.for !== 'gone') return v;
    io.progress(`${v.name}: ${v.phase}${v.reason === '' ? '' : ` – ${v.reason}`}`);
    if (Date.now() >= endMs || io.terminal.signal.aborted) {
      io.progress(null);
      throw new FlotillaError(
        'timeout',
        `VM "${v.name}" did not come to "${o.for}" within ${o.timeout}: it is ${v.phase}`,
        {
          hint: v.reason === '' ? `See it: flotilla vm show "${v.name}"` : `Why: ${v.reason}`,
        },
      );
    }
    await new Promise((go) => setTimeout(go, lookMs));
  }
}

function vmFacts(v: VmView): (readonly [string, string | null])[] {
  const age = v.heardMs === null ? 'never' : `${formatSpan(Date.now() - v.heardMs)} ago`;
  return [
    ['Name', v.name],
    ['Id', v.id],
    ['State', [v.phase, v.reason].filter((x) => x !== '').join(': ')],
    ['Wanted', v.power],
    ['Node', `${v.node ?? '–'} (${v.presence}, heard ${age})`],
    ...haFacts(v),
    ['Generation', String(v.generation)],
    ['vCPUs', `${v.cpus}${v.cpuPct === null ? '' : `, ${Math.round(v.cpuPct)} % used`}`],
    ['Memory', formatSize(v.memoryMiB * 2 ** 20)],
    ...classFacts(v),
    ['Firmware', v.spec.firmware],
    ['Boot', v.spec.boot.join(', ')],
    ...v.disks.map(
      (d) =>
        [
          `Disk ${d.name}`,
          `${formatSize(d.sizeBytes)} ${d.format}, ${diskWord(v, d)}${d.error === null ? '' : `: ${d.error.message}`}${copiesOf(v, d)}`,
        ] as const,
    ),
    ...v.spec.cdroms.map((c, i) => [`CD drive ${i + 1}`, c.image ?? 'empty'] as const),
    ...v.spec.nics.map((n, i) => [`NIC ${i + 1}`, `${n.mac} ${n.address ?? ''} ${n.model}`] as const),
    ['Addresses', v.addresses.join(', ')],
    ['Host name', v.hostname],
    ['Guest agent', v.guestAgent ? 'speaks' : 'silent'],
    ['Up', v.upSinceMs === null ? null : formatSpan(Date.now() - v.upSinceMs)],
    ['Restart pending', v.pendingRestart.join('; ')],
    ['Operations', v.ops.join(', ')],
    ['Tags', v.tags.join(', ')],
    ['Note', v.spec.note],
    ['Problems', v.problems.join('; ')],
    ['Error', v.error === null ? null : `${v.error.message} [${v.error.code}]`],
  ];
}

const diskWord = (v: VmView, d: VmView['disks'][number]): string =>
  isDetached(v.spec, d.id) ? 'not in the machine' : d.state;

/** What its class says, and what it has of its own. */
function classFacts(v: VmView): (readonly [string, string | null])[] {
  if (v.className === null) return [];
  const by = (who: VmView['settings'][number]['by']): string =>
    v.settings
      .filter((s) => s.by === who)
      .map((s) => `${settingWords[s.setting]}: ${s.text}`)
      .join(', ');
  return [
    ['Class', v.className],
    ['By its class', by('class')],
    ['Of its own', by('own')],
  ];
}

/** How the two copies of a disk stand; empty: it has one. */
function copiesOf(v: VmView, d: VmView['disks'][number]): string {
  if (!isReplicated(d)) return '';
  const nodes = (v.own?.copies ?? []).map((c) => c.node).join(' and ');
  const words = v.observed?.copies?.find((c) => c.disk === d.id);
  return `; on ${nodes}, ${words === undefined ? 'its node does not say how' : copyLine(words)}`;
}

/** Without what was not given. */
export function defined(o: Record<string, unknown>): Record<string, unknown> {
  return Object.fromEntries(Object.entries(o).filter(([, v]) => v !== undefined));
}
