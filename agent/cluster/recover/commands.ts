import { parseArgs } from 'node:util';
import { planRecovery, type RecoverAnswers, type RecoverPlan } from '../../../core/decide/recover.js';
import { FlotillaError } from '../../../core/domain/error.js';
import { EtcdLedger } from '../../ledger/etcd.js';
import type { Ledger } from '../../ledger/ledger.js';
import { readTls } from '../../pki/store.js';
import { systemClock as clock } from '../../system.js';
import { readClusterCache, type ClusterCache } from '../cache.js';
import { readAgentConfig, type AgentConfig } from '../config.js';
import { SystemdServices } from '../services.js';
import { options, usage } from '../usage.js';
import { collect, type Collected } from './collect.js';
import { admitNode, confirmRecovery } from './confirm.js';
import { rebuildLedger } from './rebuild.js';
import { recoverStatus } from './status.js';

export const recoverUsage = `flotilla-agent recover status
       flotilla-agent recover --i-know-others-are-off
       flotilla-agent recover --snapshot FILE
       flotilla-agent recover journals [--off NODE]… [--owner VM=NODE]… [--all]
       flotilla-agent recover confirm  [--off NODE]… [--owner VM=NODE]… [--all]
       flotilla-agent recover admit NODE`;

const say = (text: string): void => void process.stderr.write(`${text}\n`);

/** `recover …`, for when the ledger has lost its quorum or its data. @returns lines to print */
export async function recoverCommand(argv: readonly string[]): Promise<string[]> {
  const text = { type: 'string' } as const;
  const many = { type: 'string', multiple: true } as const;
  const { values, positionals } = options(recoverUsage, () =>
    parseArgs({
      args: [...argv],
      allowPositionals: true,
      options: {
        'i-know-others-are-off': { type: 'boolean' },
        snapshot: text,
        off: many,
        owner: many,
        all: { type: 'boolean' },
        config: text,
      },
    }),
  );
  const [verb, node, ...more] = positionals;
  const asks = values.off !== undefined || values.owner !== undefined || values.all !== undefined;
  const rebuilds = values['i-know-others-are-off'] === true || values.snapshot !== undefined;
  const clumsy =
    more.length > 0 ||
    (node !== undefined) !== (verb === 'admit') ||
    (asks && verb !== 'journals' && verb !== 'confirm') ||
    rebuilds !== (verb === undefined) ||
    (values['i-know-others-are-off'] === true && values.snapshot !== undefined);
  if (clumsy) throw usage(recoverUsage);
  const config = await readAgentConfig(values.config);
  const cache = await readClusterCache(config.stateDir);
  if (cache === null) {
    throw new FlotillaError('not-found', 'This node is in no cluster', {
      hint: 'There is nothing to recover.',
    });
  }
  if (verb === undefined) {
    const source =
      values.snapshot === undefined
        ? { how: 'voter' as const }
        : { how: 'snapshot' as const, file: values.snapshot };
    const epoch = await rebuildLedger({ config, services: new SystemdServices(), clock, say }, source);
    return [
      `The ledger runs again, with one voter, as epoch ${epoch}. Nothing is started until you confirm who owns what.`,
      'Next: flotilla-agent recover journals',
    ];
  }
  if (verb === 'status') return recoverStatus(config, cache, clock);
  return withLedger(config, cache, async (ledger) => {
    if (verb === 'admit' && node !== undefined) {
      const r = await admitNode({ config, ledger, say }, node);
      return [`${r.node} is admitted to epoch ${r.epoch}.`];
    }
    if (verb !== 'journals' && verb !== 'confirm') throw usage(recoverUsage);
    const c = await collect(config, ledger);
    const answers = { ...answersOf(values.off ?? [], values.owner ?? [], c), all: values.all === true };
    if (verb === 'journals') return journalLines(c, planRecovery(c.view, answers));
    const done = await confirmRecovery({ config, ledger, say }, answers);
    return [
      ...planLines(done.plan),
      `The recovery is over: epoch ${done.epoch}. ${done.admitted.join(', ')} may start VMs again.`,
      ...(done.off.length === 0
        ? []
        : [
            `Before ${done.off.join(', ')} may again: switch on one after the other, then "recover admit NODE".`,
          ]),
    ];
  });
}

async function withLedger<T>(
  config: AgentConfig,
  cache: ClusterCache,
  work: (l: Ledger) => Promise<T>,
): Promise<T> {
  const ledger = new EtcdLedger({ endpoints: cache.ledgerEndpoints, tls: await readTls(config.stateDir) });
  try {
    return await work(ledger);
  } finally {
    await ledger.close();
  }
}

/** VMs may be named or given by id. @throws FlotillaError `bad-input`, `not-found` */
function answersOf(off: readonly string[], owners: readonly string[], c: Collected): RecoverAnswers {
  const owner = new Map<string, string>();
  for (const text of owners) {
    const m = /^(.+)=([a-z0-9-]+)$/.exec(text);
    const [, name = '', node = ''] = m ?? [];
    const vm = c.view.vms.filter((v) => v.id === name || v.name === name);
    if (vm.length !== 1 || vm[0] === undefined) {
      throw new FlotillaError('not-found', `--owner ${text}: there is no one VM of that name`, {
        hint: 'Give VM=NODE, the VM by its id.',
      });
    }
    if (!c.view.nodes.some((n) => n.id === node)) {
      throw new FlotillaError('not-found', `--owner ${text}: there is no such node`, {
        hint: 'See: recover journals.',
      });
    }
    owner.set(vm[0].id, node);
  }
  return { off: [...new Set(off)], owner };
}

function journalLines(c: Collected, plan: RecoverPlan): string[] {
  const nodes = c.asked.map((a) => {
    if (a.journal === null && a.on)
      return `${a.node}: its machine is on, but its agent does not answer: start it`;
    if (a.journal === null) return `${a.node}: does not answer (${a.why})`;
    const bad = a.journal.unreadable === 0 ? '' : `, ${a.journal.unreadable} lines of it cannot be read`;
    return `${a.node}: its journal speaks of ${a.journal.entries.length} VMs${bad}`;
  });
  const open = plan.questions.map((q) => `? ${q.text}`);
  const next =
    open.length === 0
      ? 'No question is open. To write this and go on: flotilla-agent recover confirm, with the same answers.'
      : 'Answer with --off NODE, --owner VM=NODE; then: flotilla-agent recover confirm, with the answers.';
  return [...nodes, ...planLines(plan), ...open, next];
}

function planLines(plan: RecoverPlan): string[] {
  const vms = plan.vms.map((m) => `VM ${m.name}: ${m.owner ?? 'nobody knows whose'} (${m.why})`);
  const lost = plan.lost.map(
    (e) =>
      `VM ${e.vm} is in journals only (${e.owner}, generation ${e.gen}): deleted, or made after the snapshot; its disks are left alone`,
  );
  return [...vms, ...lost];
}
