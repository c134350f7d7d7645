import type { Command } from 'commander';
import { twinGoes } from '../../core/domain/lockstep-words.js';
import { formatSpan } from '../../core/domain/units.js';
import type { DrainAnswer } from '../../core/wire/rest.js';
import type { Io, WaitOptions } from './io.js';
import { table, type Column } from './table.js';
import { waiting } from './vm.js';

const howText: Record<DrainAnswer['vms'][number]['how'], string> = {
  migrate: 'moves while it runs',
  switch: 'its twin goes on',
  relocate: 'off: gets another owner',
  restart: 'would be restarted',
  wait: 'not now',
  stays: 'stays',
};

const columns: readonly Column<DrainAnswer['vms'][number]>[] = [
  { head: 'VM', text: (v) => v.name },
  { head: 'HOW', text: (v) => howText[v.how] },
  { head: 'TO', text: (v) => v.to ?? '–' },
  { head: 'WHY', text: (v) => v.text, give: 1 },
];

/** `node drain`, `node active`: emptying a node, and filling it again. */
export function nodeDrainCommands(node: Command, io: Io): void {
  waiting(node.command('drain').alias('maintenance'))
    .description('set a node to maintenance and move its VMs elsewhere')
    .argument('<node>')
    .option('--check', 'only say whether it could go, and what would become of each VM')
    .option('--restart', 'VMs that cannot move while they run may be shut down and started elsewhere')
    .option('--leave', 'then set it to leave the cluster')
    .action(async (name: string, o: WaitOptions & { check?: true; restart?: true; leave?: true }) => {
      const client = await io.client();
      const params = { node: name };
      if (o.check === true) {
        const d = await client.call('nodeDrainGet', { params });
        io.show(d, () => checkText(d, io.terminal.width));
        return;
      }
      const body = { restart: o.restart === true, leave: o.leave === true };
      const op = await io.follow((await client.call('nodeDrain', { params, body })).op, o);
      io.show(op, () => op.step);
    });
  waiting(node.command('active'))
    .description('set a node active again')
    .argument('<node>')
    .option('--bring-back', 'VMs that its last drain took away come back')
    .action(async (name: string, o: WaitOptions & { bringBack?: true }) => {
      const client = await io.client();
      const body = { bringBack: o.bringBack === true };
      const { op } = await client.call('nodeActivate', { params: { node: name }, body });
      const end = op === null ? null : await io.follow(op, o);
      io.show({ node: name, op: end }, () => {
        if (end !== null) return end.step;
        return `${name} is active.${o.bringBack === true ? ' No VM is to come back.' : ''}`;
      });
    });
}

function checkText(d: DrainAnswer, width: number | null): string {
  const out = [d.sentence];
  if (d.vms.length > 0) out.push('', table(d.vms, columns, width));
  if (d.bare.length > 0) out.push('', `Would have no standby: ${d.bare.join(', ')}`);
  if (d.twins.length > 0) out.push('', ...d.twins.map(twinGoes));
  if (d.images.length > 0) out.push('', `Images with their only file there: ${d.images.join(', ')}`);
  if (d.op !== null)
    out.push(
      '',
      `Under way: ${d.op.step}${d.etaS === null ? '' : `, about ${formatSpan(d.etaS * 1000)} more`}`,
    );
  return out.join('\n');
}
