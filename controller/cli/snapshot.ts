import { Option, type Command } from 'commander';
import { FlotillaError } from '../../core/domain/error.js';
import { formatSize } from '../../core/domain/units.js';
import type { SnapshotSchedule } from '../../core/domain/snapshot-schedule.js';
import { consistencyText } from '../../core/domain/vm-snapshot.js';
import type { SnapshotView } from '../../core/wire/rest.js';
import { wholeNumber } from './input.js';
import type { Io, WaitOptions } from './io.js';
import { oneLine } from './node-power.js';
import type { Column } from './table.js';
import { waiting } from './vm.js';

const columns: readonly Column<SnapshotView>[] = [
  { head: 'SNAPSHOT', text: (x) => x.name },
  { head: 'TAKEN', text: (x) => new Date(x.takenMs).toISOString().slice(0, 16).replace('T', ' ') },
  { head: 'HOLDS', text: (x) => (x.usedBytes === null ? '–' : formatSize(x.usedBytes)) },
  { head: 'NODE', text: (x) => x.node ?? 'shared' },
  { head: 'STATE', text: (x) => x.state },
  { head: 'KEPT FOR', text: (x) => x.keptFor.join(', ') || 'you' },
  { head: 'HOW', text: howText, give: 1 },
];

function howText(x: SnapshotView): string {
  if (x.error !== null) return x.error.message;
  return [
    consistencyText[x.consistency],
    ...(x.outOfReach === '' ? [] : [x.outOfReach]),
    ...(x.note === '' ? [] : [x.note]),
  ].join('; ');
}

/** `flotilla snapshot` */
export function snapshotCommands(program: Command, io: Io): void {
  const snapshot = program
    .command('snapshot')
    .description('disks of VMs as they were: keep, go back, delete');
  snapshot
    .command('list')
    .alias('ls')
    .description('list the snapshots of a VM')
    .argument('<vm>', 'name or id')
    .action(async (vm: string) => {
      const { items } = await (await io.client()).call('snapshotList', { params: { vm } });
      io.list(items, columns, 'There are no snapshots of it.');
    });
  waiting(snapshot.command('create'))
    .description('keep all disks of a VM as they are now, running or off')
    .argument('<vm>', 'name or id')
    .argument('[name]', 'of the snapshot; the time where none is given')
    .option('--note <text>', 'for people', '')
    .addOption(
      new Option('--consistency <how>', 'how much the guest must do for it')
        .choices(['auto', 'crash', 'filesystem'])
        .default('auto'),
    )
    .action(
      async (
        vm: string,
        name: string | undefined,
        o: WaitOptions & { note: string; consistency: 'auto' | 'crash' | 'filesystem' },
      ) => {
        const client = await io.client();
        const { note, consistency } = o;
        const r = await client.call('snapshotCreate', {
          params: { vm },
          body: { note, consistency, ...(name === undefined ? {} : { name }) },
        });
        const op = await io.follow(r.op, o);
        io.show(op, () => `${op.subject.name}: ${op.step === '' ? op.state : op.step}`);
      },
    );
  waiting(snapshot.command('revert'))
    .description('make the disks of a VM that is off what they were; what was written since is lost')
    .argument('<vm>', 'name or id')
    .argument('<snapshot>', 'name or id')
    .option('--snapshot-before', 'take a snapshot of what is there now first')
    .option('--yes', 'do not ask')
    .action(async (vm: string, name: string, o: WaitOptions & { snapshotBefore?: true; yes?: true }) => {
      if (o.yes !== true && o.snapshotBefore !== true) await ask(io, vm, name);
      const r = await (
        await io.client()
      ).call('snapshotRevert', {
        params: { vm, snapshot: name },
        body: { snapshotBefore: o.snapshotBefore === true },
      });
      const op = await io.follow(r.op, o);
      io.show(op, () => `${op.subject.name}: ${op.step === '' ? op.state : op.step}`);
    });
  waiting(snapshot.command('schedule'))
    .description('have snapshots taken by themselves, or show what is taken')
    .argument('<vm>', 'name or id')
    .option('--hourly <n>', 'keep those of so many hours; 0: none', wholeNumber)
    .option('--daily <n>', 'of so many days', wholeNumber)
    .option('--weekly <n>', 'of so many weeks', wholeNumber)
    .option('--off', 'none any more; what was taken stays')
    .action(async (vm: string, o: WaitOptions & Partial<SnapshotSchedule> & { off?: true }) => {
      const client = await io.client();
      let { spec } = await client.call('vmGet', { params: { vm } });
      if (o.off === true || [o.hourly, o.daily, o.weekly].some((n) => n !== undefined)) {
        const before = spec.snapshots ?? { hourly: 0, daily: 0, weekly: 0 };
        const { hourly = before.hourly, daily = before.daily, weekly = before.weekly } = o;
        const snapshots = o.off === true ? null : { hourly, daily, weekly };
        const r = await client.call('vmPatch', { params: { vm }, body: { snapshots } });
        await io.follow(r.op, o);
        ({ spec } = r.vm);
      }
      io.show(spec.snapshots ?? null, () => `${spec.name}: ${scheduleText(spec.snapshots)}`);
    });
  snapshot
    .command('delete')
    .alias('rm')
    .description('delete snapshots; the VM and other snapshots stay as they are')
    .argument('<vm>', 'name or id')
    .argument('<snapshot...>', 'names or ids')
    .action(async (vm: string, names: string[]) => {
      const client = await io.client();
      const gone: SnapshotView[] = [];
      for (const x of names) gone.push(await client.call('snapshotDelete', { params: { vm, snapshot: x } }));
      io.show(gone, () => gone.map((x) => `The snapshot ${x.name} is being deleted.`).join('\n'));
    });
}

/** `flotilla vm clone` */
export function cloneCommand(vm: Command, io: Io): void {
  waiting(vm.command('clone'))
    .description(
      'make a VM that begins as another is, or was in a snapshot; it has its own name, MACs, addresses',
    )
    .argument('<vm>', 'name or id of the original, running or off')
    .argument('<name>', 'of the new one')
    .option(
      '--snapshot <snapshot>',
      'as it was in this one; else one is taken for it, and deleted afterwards',
    )
    .option('--node <node>', 'where there is a choice: all disks on shared pools')
    .option('--start', 'start it at once')
    .action(
      async (
        of: string,
        name: string,
        o: WaitOptions & { snapshot?: string; node?: string; start?: true },
      ) => {
        const client = await io.client();
        let { snapshot } = o;
        if (snapshot === undefined) {
          const taken = await client.call('snapshotCreate', {
            params: { vm: of },
            body: { note: `For ${name}` },
          });
          snapshot = taken.snapshot.id;
          await io.follow(taken.op, { ...o, wait: true });
        }
        const remove = async (): Promise<void> => {
          if (o.snapshot !== undefined || snapshot === undefined) return;
          await client.call('snapshotDelete', { params: { vm: of, snapshot } });
        };
        try {
          const r = await client.call('cloneCreate', {
            body: {
              vm: of,
              snapshot,
              name,
              power: o.start === true ? 'running' : 'stopped',
              ...(o.node === undefined ? {} : { node: o.node }),
            },
          });
          for (const w of r.warnings) io.say(`Warning: ${w}`);
          // Its snapshot is needed until it is made.
          const op = await io.follow(r.op, o.snapshot === undefined ? { ...o, wait: true } : o);
          io.show(op, () => `VM "${r.vm.name}" is made on ${r.vm.node} as "${of}" was.`);
        } finally {
          await remove();
        }
      },
    );
}

const scheduleText = (x: SnapshotSchedule | undefined): string =>
  x === undefined
    ? 'no snapshots are taken by themselves'
    : `kept are those of the last ${x.hourly} hours, ${x.daily} days and ${x.weekly} weeks`;

/** Has the name of the VM typed. @throws FlotillaError `bad-input`: it was not, or nobody can be asked */
async function ask(io: Io, vm: string, snapshot: string): Promise<void> {
  const { terminal } = io;
  if (terminal.tty) {
    terminal.err(
      `What VM "${vm}" has written since snapshot "${snapshot}" will be lost.\nType the name of the VM to go on: `,
    );
    if ((await oneLine(io)) === vm) return;
  }
  throw new FlotillaError(
    'bad-input',
    `Nothing is reverted: nobody said that what was written since may be lost`,
    {
      hint: 'Give --yes, or --snapshot-before to keep what is there now.',
    },
  );
}
