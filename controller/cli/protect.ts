import { Argument, type Command } from 'commander';
import { protectionLevels, type ProtectionLevel } from '../../core/domain/ha.js';
import { formatSpan } from '../../core/domain/units.js';
import type { LevelView, ProtectionView } from '../../core/wire/rest.js';
import type { Io, WaitOptions } from './io.js';
import { waiting } from './vm.js';

/** `flotilla vm protect` */
export function protectCommand(vm: Command, io: Io): void {
  waiting(vm.command('protect'))
    .description('how a VM is protected against the death of its node; with a level, ask for that')
    .argument('<vm>', 'name or id')
    .addArgument(new Argument('[level]').choices(protectionLevels))
    .option('--check', 'only say whether it could, what it costs, and all that speaks against it')
    .action(
      async (
        name: string,
        level: ProtectionLevel | undefined,
        o: WaitOptions & { check?: true },
      ): Promise<void> => {
        const client = await io.client();
        const params = { vm: name };
        if (level === undefined || o.check === true) {
          const p = await client.call('vmProtection', { params });
          io.show(p, () => protectionText(p, level));
          return;
        }
        const ha = { enabled: level !== 'none', lockstep: level === 'lockstep' };
        const r = await client.call('vmPatch', { params, body: { ha } });
        for (const w of r.warnings) io.say(`Warning: ${w}`);
        const op = await io.follow(r.op, o);
        const p = await client.call('vmProtection', { params });
        const waits = p.waitsForStart ? ' It comes with its next start.' : '';
        io.show(op, () => `${op.subject.name}: protection is ${p.level}.${waits}`);
      },
    );
}

/** @param level - the only one wanted; undefined: all */
export function protectionText(p: ProtectionView, level: ProtectionLevel | undefined): string {
  const waits = p.waitsForStart ? ', from its next start' : '';
  const since = p.pair?.sinceMs ?? null;
  const now = p.pair?.text ?? p.now.text.replace(/^not protected: /, '');
  return [
    `VM "${p.name}": protection is ${p.level}${waits}.`,
    ...(now === '' ? [] : [`Now: ${now}${since === null ? '' : `, for ${formatSpan(Date.now() - since)}`}.`]),
    ...p.levels.filter((l) => level === undefined || l.level === level).flatMap((l) => levelText(l)),
  ].join('\n');
}

function levelText(l: LevelView): string[] {
  const no = (all: LevelView['blockers'], indent: string): string[] =>
    all.map((b) => `${indent}${b.text}. ${b.hint}`);
  const can = l.blockers.length === 0 && (l.level !== 'lockstep' || l.to !== null);
  return [
    '',
    `${l.level}${l.experimental ? ' (experimental)' : ''}: ${l.title}`,
    `  When its node dies it loses: ${l.loses}`,
    ...l.costs.map((c) => `  Costs: ${c}`),
    ...(can ? [] : ['  Not possible now:']),
    ...no(l.blockers, '    '),
    ...l.nodes.flatMap((n) => [`    ${n.node}:`, ...no(n.blockers, '      ')]),
    ...(l.to === null
      ? []
      : [`  Second node: ${l.to}${l.reasons.length === 0 ? '' : `: ${l.reasons.join('; ')}`}`]),
    ...l.warnings.map((w) => `  Then: ${w}`),
  ];
}
