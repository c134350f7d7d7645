import fc from 'fast-check';
import t from 'tap';
import {
  generationLeap,
  planRecovery,
  type RecoverAnswers,
  type RecoverView,
  type RecoverVm,
} from '../../../../core/decide/recover.js';
import type { JournalEntry } from '../../../../core/domain/ha.js';

const id = (n: number): string => `00000000-0000-4000-8000-${String(n).padStart(12, '0')}`;
const vm = (
  n: number,
  owner: string,
  gen: number,
  o: Partial<RecoverVm> & { standby?: string } = {},
): RecoverVm => ({
  id: id(n),
  name: `vm${n}`,
  memoryMiB: 100,
  ha: true,
  heirs: ['n1', 'n2', 'n3'],
  ...o,
  own: { owner, gen, standby: o.standby ?? null },
});
const said = (n: number, owner: string, gen: number, o: Partial<JournalEntry> = {}): JournalEntry => ({
  vm: id(n),
  owner,
  gen,
  role: 'owner',
  epoch: 1,
  ...o,
});
const view = (
  reachable: string[],
  vms: RecoverVm[],
  journals: Record<string, JournalEntry[]>,
  o: Partial<RecoverView> = {},
): RecoverView => ({
  fromEpoch: 1,
  nodes: ['n1', 'n2', 'n3'].map((n) => ({ id: n, reachable: reachable.includes(n), runsVms: true })),
  vms,
  journals: reachable.map((node) => ({ node, entries: journals[node] ?? [] })),
  ...o,
});
const nobody: RecoverAnswers = { off: [], owner: new Map() };
const all = ['n1', 'n2', 'n3'];

void t.test('the latest record counts, whoever has it', async (t) => {
  const plan = planRecovery(
    view(all, [vm(1, 'n1', 9), vm(2, 'n1', 9), vm(3, 'n1', 9), vm(4, 'n2', 4)], {
      n1: [said(1, 'n1', 9), said(2, 'n1', 9)],
      n2: [said(1, 'n2', 12), said(2, 'n2', 7), said(3, 'n2', 9, { epoch: 2 })],
      n3: [said(1, 'n2', 12, { role: 'standby' })],
    }),
    nobody,
  );
  t.same(plan.questions, []);
  t.same(
    plan.vms.map((m) => m.owner),
    ['n2', 'n1', 'n2', 'n2'],
  );
  t.same(
    plan.vms.map((m) => m.gen),
    [12, 9, 9, 4].map((g) => g + generationLeap),
  );
  t.match(plan.vms[0], {
    why: /n2 owned it at generation 12, later than the ledger's 9/,
    journal: { said: ['n2', 'n3'] },
  });
  t.match(plan.vms[3], { why: /no journal speaks of it/ });
  t.equal(plan.epochSeen, 2);
});

void t.test('a node that does not answer is asked about, with what it owned', async (t) => {
  const v = view(['n1', 'n2'], [vm(1, 'n1', 9, { name: 'web' }), vm(2, 'n3', 4, { name: 'db' })], {
    n2: [said(1, 'n3', 12, { role: 'standby' })],
  });
  const open = planRecovery(v, nobody);
  t.match(open.questions, [
    {
      about: 'off',
      subject: 'n3',
      text: /Is node n3 off\?.*"db" by the ledger.*"web" at generation 12 \(the ledger has 9\)/,
    },
  ]);
  const plan = planRecovery(v, { ...nobody, off: ['n3'] });
  t.same(plan.questions, []);
  t.same(
    plan.vms.map((m) => m.owner),
    ['n1', 'n2'],
    'to those that reach the disks, evenly',
  );
  t.match(plan.vms[1], { why: /goes from n3, which is off/ });
});

void t.test('the standby is the heir; where nobody reaches the disks it stays down', async (t) => {
  const v = view(
    ['n1', 'n2'],
    [vm(1, 'n3', 5, { standby: 'n2' }), vm(2, 'n3', 5, { heirs: ['n3'] }), vm(3, 'n3', 5, { standby: 'n3' })],
    {},
  );
  const plan = planRecovery(v, { ...nobody, off: ['n3'] });
  t.same(
    plan.vms.map((m) => m.owner),
    ['n2', 'n3', 'n1'],
  );
  t.match(plan.vms[1], { why: /stays down: nobody here reaches its disks but n3/, gen: 5 + generationLeap });
  const none = planRecovery(
    { ...v, nodes: v.nodes.map((n) => ({ ...n, runsVms: false })) },
    { ...nobody, off: ['n3'] },
  );
  t.same(
    none.vms.map((m) => m.owner),
    ['n3', 'n3', 'n3'],
    'a witness inherits nothing',
  );
});

void t.test(
  'a VM without HA stays with its node that is off, as in any failure, unless all are asked for',
  async (t) => {
    const v = view(['n1', 'n2'], [vm(1, 'n3', 5, { ha: false }), vm(2, 'n1', 5, { ha: false })], {});
    const plan = planRecovery(v, { ...nobody, off: ['n3'] });
    t.same(
      plan.vms.map((m) => m.owner),
      ['n3', 'n1'],
    );
    t.match(plan.vms[0], { why: /it has no HA, and --all was not said/, fresh: false });
    const all = planRecovery(v, { ...nobody, off: ['n3'], all: true });
    t.same(
      all.vms.map((m) => m.owner),
      ['n2', 'n1'],
    );
  },
);

void t.test('a machine of before is not to go on where others may have owned the VM since', async (t) => {
  const fresh = (
    vms: RecoverVm[],
    journals: Record<string, JournalEntry[]>,
    o: Partial<RecoverAnswers> = {},
  ) =>
    planRecovery(view(['n1', 'n2'], vms, journals), { ...nobody, off: ['n3'], ...o }).vms.map((m) => m.fresh);
  t.same(
    fresh([vm(1, 'n1', 5)], { n1: [said(1, 'n1', 5)], n2: [said(1, 'n1', 4)] }),
    [false],
    'its own all along',
  );
  t.same(fresh([vm(1, 'n1', 7)], { n1: [said(1, 'n1', 5)] }), [false], 'only its journal is behind');
  t.same(fresh([vm(1, 'n3', 6)], { n1: [said(1, 'n1', 5)] }), [true], 'n3 took it, and comes not back');
  t.same(
    fresh([vm(1, 'n1', 7)], { n1: [said(1, 'n1', 5)], n2: [said(1, 'n2', 6)] }),
    [true],
    'n2 had it in between',
  );
  const two = { n1: [said(1, 'n1', 9)], n2: [said(1, 'n2', 9)] };
  t.same(fresh([vm(1, 'n1', 8)], two, { owner: new Map([[id(1), 'n1']]) }), [true], 'a person chose');
  t.same(
    fresh([vm(1, 'n2', 9)], {
      n1: [said(1, 'n1', 7)],
      n2: [said(1, 'n2', 3, { epoch: 0 }), said(1, 'n2', 9)],
    }),
    [false],
  );
});

void t.test('two owners of one generation: a person says which', async (t) => {
  const v = view(all, [vm(1, 'n1', 9, { name: 'web' })], {
    n1: [said(1, 'n1', 12)],
    n2: [said(1, 'n2', 12)],
  });
  const plan = planRecovery(v, nobody);
  t.match(plan.questions, [{ about: 'owner', subject: id(1), text: /Who owns "web": n1 or n2\?/ }]);
  t.equal(plan.vms[0]?.owner, null);
  const answered = planRecovery(v, { ...nobody, owner: new Map([[id(1), 'n2']]) });
  t.same(answered.questions, []);
  t.match(answered.vms[0], { owner: 'n2', gen: 12 + generationLeap });
  const ledger = planRecovery(view(all, [vm(1, 'n1', 9)], { n2: [said(1, 'n2', 9)] }), nobody);
  t.match(ledger.questions, [{ about: 'owner' }], 'also ledger against journal');
});

void t.test('VMs of which only journals know are named', async (t) => {
  const plan = planRecovery(view(all, [], { n1: [said(7, 'n1', 3)], n2: [said(7, 'n2', 5)] }), nobody);
  t.same(plan.lost, [said(7, 'n2', 5)]);
  t.same(plan.questions, []);
});

void t.test(
  'whatever the journals say: generations only rise, nothing is written on an open question, once is enough',
  async (t) => {
    const nodes = ['n1', 'n2', 'n3', 'n4'];
    const node = fc.constantFrom(...nodes);
    const entry = fc.record({
      vm: fc.integer({ min: 0, max: 4 }).map(id),
      owner: node,
      gen: fc.integer({ min: 1, max: 6 }),
      role: fc.constantFrom('owner' as const, 'standby' as const, 'none' as const),
      epoch: fc.integer({ min: 1, max: 3 }),
    });
    const arb = fc.record({
      fromEpoch: fc.integer({ min: 1, max: 3 }),
      reachable: fc.subarray(nodes),
      off: fc.subarray(nodes),
      journals: fc.array(fc.array(entry, { maxLength: 6 }), { minLength: 4, maxLength: 4 }),
      vms: fc.array(
        fc.record({ owner: node, gen: fc.integer({ min: 1, max: 6 }), heirs: fc.subarray(nodes) }),
        { maxLength: 4 },
      ),
    });
    fc.assert(
      fc.property(arb, (x) => {
        const v: RecoverView = {
          fromEpoch: x.fromEpoch,
          nodes: nodes.map((n) => ({ id: n, reachable: x.reachable.includes(n), runsVms: n !== 'n4' })),
          vms: x.vms.map((m, i) => vm(i, m.owner, m.gen, { heirs: m.heirs })),
          journals: x.reachable.map((n, i) => ({ node: n, entries: x.journals[i] ?? [] })),
        };
        const plan = planRecovery(v, { off: x.off, owner: new Map() });
        const asked = new Set(plan.questions.map((q) => q.subject));
        for (const n of nodes) {
          if (!x.reachable.includes(n) && !x.off.includes(n) && !asked.has(n))
            throw new Error(`${n} is not asked about`);
        }
        for (const m of plan.vms) {
          const entries = v.journals.flatMap((j) => j.entries).filter((e) => e.vm === m.id);
          if (entries.some((e) => e.gen >= m.gen) || m.gen <= m.ledger.gen)
            throw new Error('a generation does not rise');
          const best = Math.max(
            ...entries.map((e) => e.epoch * 100 + e.gen),
            v.fromEpoch * 100 + m.ledger.gen,
          );
          const owners = new Set(entries.filter((e) => e.epoch * 100 + e.gen === best).map((e) => e.owner));
          if (v.fromEpoch * 100 + m.ledger.gen === best) owners.add(m.ledger.owner);
          if ((m.owner === null) !== owners.size > 1)
            throw new Error('a conflict is asked about, and only that');
          if (m.owner === null && !asked.has(m.id)) throw new Error('no question');
          if (m.owner === null || owners.has(m.owner)) continue;
          const [was] = [...owners];
          if (was !== undefined && x.reachable.includes(was))
            throw new Error('taken from a node that is here');
          if (!x.reachable.includes(m.owner) || m.owner === 'n4') throw new Error('given to one that cannot');
        }
        // Written and cut off before the end: the same again.
        const again = planRecovery(
          {
            ...v,
            vms: v.vms.map((m, i) => ({
              ...m,
              own: { ...m.own, owner: plan.vms[i]?.owner ?? m.own.owner, gen: plan.vms[i]?.gen ?? 1 },
            })),
          },
          { off: x.off, owner: new Map() },
        );
        plan.vms.forEach((m, i) => {
          const late = v.journals.some((j) => j.entries.some((e) => e.vm === m.id && e.epoch > v.fromEpoch));
          if (m.owner !== null && !late && again.vms[i]?.owner !== m.owner)
            throw new Error('another owner at the second time');
        });
      }),
      { numRuns: 2_000 },
    );
    t.pass();
  },
);
