import fc from 'fast-check';
import t from 'tap';
import {
  decideVoters,
  votersWanted,
  type VoterMember,
  type VoterNode,
  type VoterStep,
} from '../../../../core/decide/voters.js';

const url = (id: string) => `https://${id}:2380`;
const node = (id: string, o: Partial<VoterNode> = {}): VoterNode => ({
  id,
  voter: false,
  desired: 'active',
  alive: true,
  joinedMs: 0,
  witness: false,
  rack: null,
  peerUrl: url(id),
  lockstep: { owns: 0, twins: 0 },
  ...o,
});
const member = (id: string, learner = false): VoterMember => ({ id: `m-${id}`, peerUrl: url(id), learner });
const none: ReadonlySet<string> = new Set();

/** etcd and the records, as far as this decision goes. */
class Model {
  nodes: VoterNode[];
  members: VoterMember[];
  lost: ReadonlySet<string> = none;
  leader: string | null = null;

  constructor(nodes: VoterNode[], members: VoterMember[]) {
    this.nodes = nodes;
    this.members = members;
  }

  next(): VoterStep {
    return decideVoters(this);
  }

  apply(s: VoterStep): void {
    switch (s.do) {
      case 'nothing':
        return;
      case 'add-learner':
        this.members = [...this.members, { id: `m-${s.node}`, peerUrl: s.peerUrl, learner: true }];
        return;
      case 'promote':
        this.members = this.members.map((m) => (m.id === s.member ? { ...m, learner: false } : m));
        return;
      case 'remove':
        this.members = this.members.filter((m) => m.id !== s.member);
        return;
      case 'hand-over':
        this.leader = s.member;
        return;
      case 'record':
        this.nodes = this.nodes.map((n) => (n.id === s.node ? { ...n, voter: s.voter } : n));
        return;
    }
  }

  /** Steps until nothing is left to do. @returns what was done, as words */
  settle(max = 60): string[] {
    const log: string[] = [];
    for (let i = 0; i < max; i++) {
      const s = this.next();
      if (s.do === 'nothing') return log;
      log.push(s.do === 'record' ? `record ${s.node} ${s.voter}` : `${s.do} ${s.node}`);
      this.apply(s);
    }
    throw new Error(`no end: ${log.join(', ')}`);
  }

  get voters(): string[] {
    return this.members.filter((m) => !m.learner).map((m) => m.id);
  }
}

void t.test('how many voters', async (t) => {
  const wanted = (nodes: number[], witnesses: number): number[] =>
    nodes.map((n) => votersWanted(n, witnesses));
  t.same(wanted([1, 2, 3, 4, 6, 7, 32], 0), [1, 1, 3, 3, 3, 5, 5]);
  t.same(wanted([1, 2, 3, 4, 6, 7, 32], 1), [1, 3, 3, 3, 3, 5, 5], 'a witness is the third of two');
  t.same(wanted([0, 1, 2, 6], 2), [1, 1, 3, 3], 'and never counts as a node');
});

void t.test('the third node brings two more voters, one after the other, in order of joining', async (t) => {
  const m = new Model(
    [node('n1', { voter: true }), node('n3', { joinedMs: 1 }), node('n2', { joinedMs: 2 })],
    [member('n1')],
  );
  t.same(m.settle(), [
    'add-learner n3',
    'promote n3',
    'record n3 true',
    'add-learner n2',
    'promote n2',
    'record n2 true',
  ]);
});

void t.test('the leader is where no machine in lockstep is, else where only twins are', async (t) => {
  const led = (leader: string, ...pairs: [string, string][]): string[] => {
    const of = (id: string): Partial<VoterNode> => ({
      voter: true,
      lockstep: {
        owns: pairs.filter((p) => p[0] === id).length,
        twins: pairs.filter((p) => p[1] === id).length,
      },
    });
    const all = ['n1', 'n2', 'n3'];
    const m = new Model(
      all.map((id) => node(id, of(id))),
      all.map((id) => member(id)),
    );
    m.leader = `m-${leader}`;
    return m.settle();
  };
  t.same(led('n1'), []);
  t.same(led('n1', ['n1', 'n2']), ['hand-over n3']);
  t.same(led('n2', ['n1', 'n2']), ['hand-over n3'], "its twin's death makes the ledger write, too");
  t.same(led('n3', ['n1', 'n2']), []);
  t.same(led('n1', ['n1', 'n2'], ['n1', 'n3']), ['hand-over n2']);
  t.same(led('n2', ['n1', 'n2'], ['n1', 'n3']), [], 'no place is better');
  t.same(led('n1', ['n1', 'n2'], ['n2', 'n3'], ['n3', 'n1']), [], 'there is one everywhere');
  const m = new Model(
    [node('n1', { voter: true, lockstep: { owns: 1, twins: 0 } }), node('n2', { voter: true, alive: false })],
    [member('n1'), member('n2')],
  );
  m.leader = 'm-n1';
  t.not(m.next().do, 'hand-over', 'who is gone cannot lead');
});

void t.test('two nodes keep one voter', async (t) => {
  const m = new Model([node('n1', { voter: true }), node('n2')], [member('n1')]);
  t.match(m.next(), { do: 'nothing', why: '' });
});

void t.test('two nodes and a witness have three voters, and one when the witness leaves', async (t) => {
  const m = new Model(
    [node('n1', { voter: true }), node('n2', { joinedMs: 1 }), node('w', { joinedMs: 2, witness: true })],
    [member('n1')],
  );
  m.settle();
  t.same(m.voters, ['m-n1', 'm-n2', 'm-w']);
  m.nodes = m.nodes.map((n) => (n.id === 'w' ? { ...n, desired: 'leaving' } : n));
  m.settle();
  t.same(m.voters, ['m-n1']);
});

void t.test('of one node and a witness the node votes, whoever came first', async (t) => {
  const nodes = [node('w', { voter: true, witness: true }), node('n1', { voter: true, joinedMs: 5 })];
  const m = new Model(nodes, [member('w'), member('n1')]);
  m.settle();
  t.same(m.voters, ['m-n1']);
});

void t.test(
  'racks: the new voters come from racks that have none, and a crowded rack gives one up',
  async (t) => {
    const racks = ['a', 'a', 'a', 'b', 'c'];
    const nodes = racks.map((rack, i) => node(`n${i}`, { joinedMs: i, rack }));
    const m = new Model(nodes, [member('n0')]);
    m.settle();
    t.same(m.voters, ['m-n0', 'm-n3', 'm-n4']);

    const late = new Model(
      nodes.map((n, i) => ({ ...n, voter: i < 3 })),
      [member('n0'), member('n1'), member('n2')],
    );
    const log = late.settle().filter((s) => !s.startsWith('record'));
    t.same(late.voters, ['m-n0', 'm-n3', 'm-n4']);
    t.same(log, ['add-learner n3', 'promote n3', 'remove n2', 'add-learner n4', 'promote n4', 'remove n1']);

    const without = new Model(
      nodes.map((n) => ({ ...n, rack: null, voter: Number(n.id.slice(1)) < 3 })),
      [member('n0'), member('n1'), member('n2')],
    );
    t.same(without.settle(), [], 'without labels nobody moves');
  },
);

void t.test('too many voters: the dead one goes before the living', async (t) => {
  const nodes = [0, 1, 2, 3].map((i) => node(`n${i}`, { voter: true, joinedMs: i, alive: i !== 1 }));
  const m = new Model(
    nodes,
    nodes.map((n) => member(n.id)),
  );
  t.match(m.next(), { do: 'remove', member: 'm-n1' });
});

void t.test('the way from one to three is begun only with two living candidates', async (t) => {
  const m = new Model(
    [node('n1', { voter: true }), node('n2'), node('n3', { alive: false })],
    [member('n1')],
  );
  t.match(m.next(), { do: 'nothing', why: /2 more voters are wanted/ });
});

void t.test('a learner whose node died is waited for, then replaced', async (t) => {
  const m = new Model(
    [node('n1', { voter: true }), node('n2', { alive: false }), node('n3'), node('n4')],
    [member('n1'), member('n2', true)],
  );
  t.match(m.next(), { do: 'nothing', why: /waiting for n2/ });
  m.lost = new Set(['m-n2']);
  t.match(m.next(), { do: 'remove', member: 'm-n2' });
  m.settle();
  t.same(m.voters.sort(), ['m-n1', 'm-n3', 'm-n4']);
});

void t.test('a lost voter is removed before it is replaced, since etcd adds nobody meanwhile', async (t) => {
  const nodes = ['n1', 'n2', 'n3'].map((id) => node(id, { voter: true, alive: id !== 'n2' }));
  const m = new Model(
    [...nodes, node('n4')],
    ['n1', 'n2', 'n3'].map((id) => member(id)),
  );
  t.match(m.next(), { do: 'nothing' }, 'away for a moment only');
  m.lost = new Set(['m-n2']);
  t.same(m.settle(), ['remove n2', 'record n2 false', 'add-learner n4', 'promote n4', 'record n4 true']);
  const alone = new Model(
    nodes,
    ['n1', 'n2', 'n3'].map((id) => member(id)),
  );
  alone.lost = new Set(['m-n2']);
  t.match(alone.next(), { do: 'nothing' }, 'nobody could take its seat');
});

void t.test('a leaving voter goes after its replacement has come', async (t) => {
  const nodes = ['n1', 'n2', 'n3'].map((id) =>
    node(id, { voter: true, desired: id === 'n1' ? 'leaving' : 'active' }),
  );
  const m = new Model(
    [...nodes, node('n4')],
    ['n1', 'n2', 'n3'].map((id) => member(id)),
  );
  t.same(
    m.settle().filter((s) => !s.startsWith('record')),
    ['add-learner n4', 'promote n4', 'remove n1'],
  );
});

void t.test('a member of no node is removed, a majority is never given up for it', async (t) => {
  const m = new Model(
    [node('n1', { voter: true }), node('n2', { voter: true })],
    [member('n1'), member('n2'), member('x')],
  );
  t.match(m.next(), { do: 'remove', member: 'm-x' });
  const weak = new Model([node('n1', { voter: true, alive: false })], [member('n1'), member('x')]);
  t.match(weak.next(), { do: 'nothing' });
});

void t.test(
  'whatever it starts from: it ends, with the right number, and never takes the last majority',
  async (t) => {
    const arb = fc
      .array(
        fc.record({
          votes: fc.constantFrom('no', 'voter', 'learner'),
          alive: fc.boolean(),
          desired: fc.constantFrom('active' as const, 'maintenance' as const, 'leaving' as const),
          lost: fc.boolean(),
          recorded: fc.boolean(),
          witness: fc.integer({ min: 0, max: 3 }).map((n) => n === 0),
          rack: fc.constantFrom(null, 'a', 'b', 'c'),
        }),
        { minLength: 1, maxLength: 9 },
      )
      .filter((list) => list.some((x) => x.votes === 'voter' && x.alive))
      .filter((list) => list.filter((x) => x.votes === 'learner').length <= 1);
    fc.assert(
      fc.property(arb, (list) => {
        const m = new Model(
          list.map((x, i) =>
            node(`n${i}`, {
              alive: x.alive,
              desired: x.desired,
              joinedMs: i,
              voter: x.recorded,
              witness: x.witness,
              rack: x.rack,
            }),
          ),
          list.flatMap((x, i) => (x.votes === 'no' ? [] : [member(`n${i}`, x.votes === 'learner')])),
        );
        m.lost = new Set(list.flatMap((x, i) => (x.lost && !x.alive ? [`m-n${i}`] : [])));
        const aliveIds = new Set(list.flatMap((x, i) => (x.alive ? [`m-n${i}`] : [])));
        const majority = () => m.voters.filter((v) => aliveIds.has(v)).length > m.voters.length / 2;
        for (let i = 0; ; i++) {
          if (i > 80) throw new Error('no end');
          const had = majority();
          const step = m.next();
          if (step.do === 'nothing') break;
          m.apply(step);
          if (m.voters.length === 0) throw new Error('no voter left');
          if (had && !majority()) throw new Error(`gave the majority up by ${JSON.stringify(step)}`);
          if (m.members.filter((x) => x.learner).length > 1) throw new Error('two learners');
        }
        // Where everybody lives and stays, the number is the wanted one.
        if (list.every((x) => x.alive && x.desired === 'active')) {
          const witnesses = list.filter((x) => x.witness).length;
          const wanted = Math.min(votersWanted(list.length - witnesses, witnesses), list.length);
          if (m.voters.length !== wanted) throw new Error(`${m.voters.length} voters`);
          for (const n of m.nodes)
            if (n.voter !== m.voters.includes(`m-${n.id}`)) throw new Error('record differs');
        }
      }),
      { numRuns: 2_000 },
    );
    t.pass();
  },
);
