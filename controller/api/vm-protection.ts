import { lockstepText, type LockstepCheck } from '../../core/decide/lockstep-check.js';
import { protectionOf } from '../../core/decide/plan/placement.js';
import { reachOf } from '../../core/decide/standby.js';
import { FlotillaError } from '../../core/domain/error.js';
import { protectionLevels, type ProtectionLevel } from '../../core/domain/ha.js';
import { levelWords, type LevelWords } from '../../core/domain/lockstep-words.js';
import type { VmOwn, VmSpec } from '../../core/domain/vm.js';
import type { LevelView } from '../../core/wire/rest.js';
import { levelWaits } from '../pair.js';
import { outlookOf } from '../plan-view.js';
import type { View } from '../view.js';
import type { ApiDeps, Some } from './context.js';
import { idOf, notFound } from './lookup.js';

/** What each level of protection would be to a VM now. */
export function protectionHandlers({ view }: ApiDeps): Some<'vmProtection'> {
  return {
    async vmProtection({ params }) {
      const vm = view.vm(await idOf(view, 'vm', params.vm));
      if (vm === null) throw notFound('vm', params.vm);
      const { spec, own } = vm;
      if (own === null)
        throw new FlotillaError('unreadable-record', `VM "${vm.name}" has no owner record`, {
          hint: 'Its ledger records are broken; nothing is done with it until they are mended.',
        });
      return {
        body: {
          vm: vm.id,
          name: vm.name,
          level: vm.level,
          now: vm.ha,
          pair: vm.pair,
          waitsForStart: levelWaits(spec, own),
          levels: protectionLevels.map((level) => levelView(view, level, spec, own)),
        },
      };
    },
  };
}

type Found = Omit<LevelView, 'level' | keyof LevelWords>;
const nothing: Found = { blockers: [], nodes: [], to: null, reasons: [], warnings: [] };

function levelView(view: View, level: ProtectionLevel, spec: VmSpec, own: VmOwn): LevelView {
  const found =
    level === 'none'
      ? nothing
      : level === 'restart'
        ? restartFound(view, spec, own)
        : lockstepFound(outlookOf(view).lockstep(spec, own));
  const words = levelWords(level, spec, linkMiBps(view, [own.owner, found.to]));
  return { level, ...words, costs: [...words.costs], ...found };
}

const lockstepFound = (c: LockstepCheck): Found => ({
  to: c.to,
  blockers: [...c.blockers],
  nodes: c.nodes.map((n) => ({ node: n.node, blockers: [...n.blockers] })),
  reasons: [...c.reasons],
  warnings: [...c.warnings],
});

/** As if it had HA. */
function restartFound(view: View, spec: VmSpec, own: VmOwn): Found {
  const { disk, pool } = view.ledger.tables;
  const reach = reachOf(spec, { get: (id) => disk.get(id)?.value }, { get: (id) => pool.get(id)?.value });
  if (!reach.ok)
    return {
      ...nothing,
      blockers: [
        {
          code: 'no-reach',
          text: reach.why,
          hint: 'Put it on a shared pool, or on a thin one with two copies: flotilla vm move-disk.',
        },
      ],
    };
  const { lockstep: _, ...ha } = spec.ha;
  const { cluster } = outlookOf(view, { changed: { ...spec, ha: { ...ha, enabled: true } } });
  return {
    ...nothing,
    to: own.lockstep ? null : own.standby,
    blockers: protectionOf(cluster, spec.name).map((x) => ({
      code: 'no-failover-room',
      text: x.text,
      hint: x.help,
    })),
  };
}

/** The slower of both nodes' networks, as far as they have said. */
function linkMiBps(view: View, nodes: readonly (string | null)[]): number {
  const all = view.clusterNodes().filter((n) => nodes.includes(n.id));
  return Math.min(...all.map((n) => n.netMiBps), 10_000);
}

/**
 * That a VM can be in lockstep where it is.
 *
 * @returns promises that are not kept so, in words
 * @throws FlotillaError `unsupported`, `no-node-fits`, `no-failover-room`, with all blockers
 */
export function needLockstep(what: string, c: LockstepCheck): string[] {
  if (c.to !== null) return [...c.warnings];
  const all = [...c.blockers, ...c.nodes.flatMap((n) => n.blockers)];
  const room = c.nodes.some((n) => n.blockers.every((b) => b.code === 'no-failover-room'));
  throw new FlotillaError(
    c.blockers.length > 0 ? 'unsupported' : room ? 'no-failover-room' : 'no-node-fits',
    `${what}: ${lockstepText(c)}`,
    {
      hint: [...new Set(all.map((b) => b.hint))].slice(0, 3).join(' ') || 'Add a node to the cluster.',
      details: { blockers: c.blockers, nodes: c.nodes },
    },
  );
}
