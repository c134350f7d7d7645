import fc from 'fast-check';
import t from 'tap';
import {
  decideRolling,
  holdMsMax,
  settleMsMax,
  steadyMs,
  wantsNext,
  workMsMax,
  type RollingSeen,
  type RollingStep,
} from '../../../../core/decide/rolling.js';
import { opFinished, queuedOp, type Op, type OpState } from '../../../../core/domain/op.js';
import { resumed, underWay, type RollingArgs, type RollingNode } from '../../../../core/domain/rolling.js';

const id = (n: number): string => `11111111-1111-4111-8111-${String(n).padStart(12, '0')}`;
const line = (node: string, more: Partial<RollingNode> = {}): RollingNode => ({
  node,
  state: 'waiting',
  text: '',
  ...more,
});
const argsOf = (nodes: RollingNode[], more: Partial<RollingArgs> = {}): RollingArgs => ({
  work: 'reboot',
  image: null,
  atOnce: 1,
  restart: false,
  bringBack: false,
  paused: false,
  nodes,
  ...more,
});
const opOf = (n: number, kind: Op['kind'], more: Partial<Op> = {}): Op => ({
  ...queuedOp(
    { id: id(n), kind, subject: { kind: 'node', id: 'n1', name: 'n1' }, node: null, askedBy: 'x', args: {} },
    0,
  ),
  ...more,
});
const well = (more: Partial<RollingSeen> = {}): RollingSeen => ({
  desired: 'maintenance',
  witness: false,
  live: { boot: 'after', version: '1' },
  agentBoot: 'agent after',
  unwell: new Map(),
  unlike: [],
  ...more,
});

/** One look. */
function look(o: {
  args: RollingArgs;
  ops?: Op[];
  seen?: Partial<RollingSeen> | null;
  next?: Parameters<typeof decideRolling>[0]['next'];
  ms?: number;
  textMs?: number;
  cancel?: boolean;
}): RollingStep {
  const op = opOf(0, 'cluster.rolling', { cancelAsked: o.cancel === true, state: 'running' });
  return decideRolling({
    op,
    args: o.args,
    anOp: (x) => o.ops?.find((k) => k.id === x),
    node: () => (o.seen === null ? null : well(o.seen)),
    next: o.next ?? null,
    stateMs: () => o.ms ?? 0,
    textMs: () => o.textMs ?? o.ms ?? 0,
  });
}
const before: Partial<RollingNode> = {
  boot: 'before',
  agentBoot: 'agent before',
  unwell: [],
  was: 'active',
};

void t.test('a node’s turn begins: what it is now is noted, and it is emptied', (t) => {
  const args = argsOf([line('n1'), line('n2')]);
  const s = look({
    args,
    next: { nodes: ['n2'] },
    seen: { desired: 'active', unwell: new Map([['x', 'old']]) },
  });
  t.same(s.acts, [{ do: 'drain', node: 'n2' }]);
  t.match(s.nodes[1], {
    state: 'emptying',
    was: 'active',
    boot: 'after',
    agentBoot: 'agent after',
    unwell: ['x'],
  });
  t.match(s, { end: null, step: '0 of 2 nodes are done; n2: its VMs move away' });
  const witness = look({ args, next: { nodes: ['n2'] }, seen: { witness: true, desired: 'active' } });
  t.same(witness.acts, [{ do: 'work', node: 'n2' }], 'a witness has nothing to empty');
  t.match(look({ args, next: { nodes: ['n2'] }, seen: null }), { acts: [], nodes: [{}, { state: 'done' }] });
  t.end();
});

void t.test('emptied, it restarts; not where somebody set it active, or the drain failed', (t) => {
  const args = argsOf([line('n1', { ...before, state: 'emptying', op: id(1) })]);
  const drained = [opOf(1, 'node.drain', { state: 'done' })];
  t.match(look({ args, ops: drained }), {
    acts: [{ do: 'work', node: 'n1' }],
    nodes: [{ state: 'working', drain: id(1), op: null }],
  });
  t.match(look({ args, ops: drained, seen: { desired: 'active' } }), {
    acts: [],
    end: { state: 'failed', error: { message: 'n1 was emptied, and somebody set it active since' } },
  });
  t.match(look({ args, ops: [opOf(1, 'node.drain', { state: 'failed' })] }), {
    acts: [],
    end: { state: 'failed', error: { message: /n1 could not be emptied: node.drain was failed/ } },
  });
  t.same(look({ args }).acts, [{ do: 'drain', node: 'n1' }], 'its record is gone: asked for again');
  t.match(look({ args, ops: [opOf(1, 'node.drain', { state: 'running', step: '1 of 2' })] }), {
    acts: [],
    step: '0 of 1 nodes are done; n1: 1 of 2',
  });
  t.end();
});

void t.test('a restart is waited for, long and not for ever', (t) => {
  const args = argsOf([line('n1', { ...before, state: 'working', op: id(1) })]);
  const under = [opOf(1, 'node.reboot', { state: 'running', step: 'restarts' })];
  t.match(look({ args, ops: under, seen: { live: null }, ms: workMsMax - 1 }), {
    end: null,
    step: /it is down/,
  });
  t.match(look({ args, ops: under, seen: { live: null }, ms: workMsMax }), {
    end: {
      state: 'failed',
      error: { message: /has not come back within 60 minutes/, hint: /rolling resume/ },
    },
  });
  t.match(look({ args, ops: [opOf(1, 'node.reboot', { state: 'done' })] }).nodes, [{ state: 'settling' }]);
  t.match(look({ args }).nodes, [{ state: 'settling' }], 'seen by its boot, where the record is gone');
  t.same(look({ args, seen: { live: { boot: 'before', version: '1' } } }).acts, [{ do: 'work', node: 'n1' }]);
  t.end();
});

void t.test('back, it must be as well as it was, for a while, with its copies the same', (t) => {
  const settling = line('n1', { ...before, state: 'settling', text: 'is well' });
  const args = argsOf([settling]);
  const ill: Partial<RollingSeen>[] = [
    { live: null },
    { live: { boot: 'before', version: '1' } },
    { agentBoot: null },
    { agentBoot: 'agent before' },
    { unwell: new Map([['pool p', 'away']]) },
    { unwell: new Map([['keeper', 'it would not arm']]) },
  ];
  for (const seen of ill) {
    t.match(look({ args, seen, ms: settleMsMax - 1 }), { end: null, acts: [], step: /not well yet/ });
    t.match(look({ args, seen, ms: settleMsMax }), { end: { state: 'failed' }, acts: [] });
  }
  t.match(look({ args, seen: { unlike: ['db'] }, ms: settleMsMax * 9 }), {
    end: null,
    step: /the copies of db are being made the same/,
  });
  t.match(look({ args, textMs: steadyMs - 1 }), { end: null, acts: [] });
  t.match(look({ args, textMs: steadyMs }), {
    end: { state: 'done' },
    acts: [{ do: 'return', node: 'n1', vms: [] }],
    nodes: [{ state: 'done', version: '1' }],
  });
  const was = argsOf([{ ...settling, unwell: ['pool p'] }]);
  t.match(look({ args: was, seen: ill[4] as Partial<RollingSeen>, textMs: steadyMs }), {
    end: { state: 'done' },
  });
  const kept = argsOf([{ ...settling, was: 'maintenance' }]);
  t.match(look({ args: kept, textMs: steadyMs }), { end: { state: 'done' }, acts: [] });
  t.end();
});

void t.test('after an update all run the same version', (t) => {
  const done = line('n2', { state: 'done', version: '2' });
  const args = argsOf([line('n1', { ...before, state: 'settling', text: 'is well' }), done], {
    work: 'update',
    image: { id: id(5), name: 'new' },
  });
  t.match(look({ args, textMs: steadyMs }), {
    end: { state: 'failed', error: { message: 'n1 runs version 1 after the update, n2 2' } },
  });
  t.end();
});

void t.test('VMs come back where that was asked for; one that cannot ends it', (t) => {
  const vms = [
    { vm: id(8), state: 'moved', to: 'n2' },
    { vm: id(9), state: 'stays' },
  ];
  const drain = opOf(1, 'node.drain', {
    state: 'done',
    args: { node: 'n1', restart: false, leave: false, vms },
  });
  const node = line('n1', { ...before, state: 'settling', drain: id(1), text: 'is well' });
  const s = look({ args: argsOf([node], { bringBack: true }), ops: [drain], textMs: steadyMs });
  t.match(s, { acts: [{ do: 'return', vms: [{ vm: id(8), state: 'waiting' }] }], end: null });
  const back = argsOf([{ ...node, state: 'returning', op: id(2) }]);
  t.match(look({ args: back, ops: [opOf(2, 'node.return', { state: 'failed' })] }), {
    end: { state: 'failed' },
  });
  t.match(look({ args: back, ops: [opOf(2, 'node.return', { state: 'done' })] }), { end: { state: 'done' } });
  t.end();
});

void t.test('paused, nothing is begun; what keeps the next may pass within a while', (t) => {
  const op = opOf(0, 'cluster.rolling');
  const args = argsOf([line('n1')]);
  t.ok(wantsNext(op, args));
  t.notOk(wantsNext(op, { ...args, paused: true }));
  t.notOk(wantsNext({ ...op, cancelAsked: true }, args));
  t.match(look({ args: { ...args, paused: true } }), {
    end: null,
    acts: [],
    step: '0 of 1 nodes are done; paused',
  });
  const next = { held: 'n3 is not alive' };
  t.match(look({ args, next }), {
    end: null,
    acts: [],
    step: '0 of 1 nodes are done; waits: n3 is not alive',
  });
  t.match(look({ args, next, ms: holdMsMax }), {
    end: { state: 'failed', error: { message: 'No further node can go: n3 is not alive' } },
  });
  t.end();
});

void t.test(
  'cancelled: what is emptied is given back and counts as not done; what restarts is done to its end',
  (t) => {
    const emptying = argsOf([line('n1', { ...before, state: 'emptying', op: id(1) }), line('n2')]);
    const under = opOf(1, 'node.drain', { state: 'running' });
    t.match(look({ args: emptying, ops: [under], cancel: true }), {
      acts: [{ do: 'cancel', op: id(1) }],
      end: null,
    });
    t.match(look({ args: emptying, ops: [{ ...under, state: 'cancelled' }], cancel: true }), {
      acts: [{ do: 'return', node: 'n1', vms: [] }],
      nodes: [{ state: 'waiting' }, { state: 'waiting' }],
      end: { state: 'cancelled' },
    });
    const working = argsOf([line('n1', { ...before, state: 'working', op: id(1) }), line('n2')]);
    const restarts = opOf(1, 'node.reboot', { state: 'running' });
    t.match(look({ args: working, ops: [restarts], cancel: true }), { end: null });
    t.match(look({ args: working, ops: [{ ...restarts, state: 'done' }], cancel: true }), {
      nodes: [{ state: 'settling' }, {}],
      end: null,
    });
    t.end();
  },
);

void t.test('what stopped is gone on with: what failed anew, what is under way as it is', (t) => {
  const args = argsOf([
    line('n1', { state: 'done' }),
    line('n2', { state: 'emptying', op: id(1) }),
    line('n3', { state: 'working', op: id(2) }),
    line('n4', { state: 'settling' }),
    line('n5', { state: 'returning', op: id(3) }),
  ]);
  t.same(
    resumed({ ...args, paused: true }, (o) => o === id(2)).nodes.map((n) => n.state),
    ['done', 'waiting', 'working', 'settling', 'settling'],
  );
  t.equal(resumed({ ...args, paused: true }, () => false).paused, false);
  t.end();
});

/** A cluster as this work sees it: each act succeeds or fails by chance, at any pace, and the decider forgets everything. */
void t.test(
  'laws: one group at a time; a node is emptied before it restarts; it ends with each node done once, or where one failed',
  (t) => {
    const chance = fc.array(fc.integer({ min: 0, max: 99 }), { minLength: 60, maxLength: 300 });
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 6 }),
        fc.integer({ min: 1, max: 3 }),
        chance,
        (count, atOnce, rolls) => {
          const names = Array.from({ length: count }, (_, i) => `n${i + 1}`);
          const desired = new Map<string, 'active' | 'maintenance'>(names.map((n) => [n, 'active']));
          const boots = new Map(names.map((n) => [n, 0]));
          const ops = new Map<string, Op>();
          let args = argsOf(
            names.map((n) => line(n)),
            { atOnce, bringBack: true },
          );
          let op = opOf(0, 'cluster.rolling', { state: 'running' });
          let made = 1;
          let failures = 0;
          let at = 0;
          const roll = (): number => rolls[at++ % rolls.length] ?? 0;
          let now = 0;
          const since = new Map<string, [string, number]>();
          const standsMs = (key: string, what: string): number => {
            if (since.get(key)?.[0] !== what) since.set(key, [what, now]);
            return now - (since.get(key)?.[1] ?? now);
          };
          for (let pass = 0; pass < 4000; pass++) {
            now += 5_000;
            const next = wantsNext(op, args)
              ? {
                  nodes: args.nodes
                    .filter((n) => n.state === 'waiting')
                    .slice(0, atOnce)
                    .map((n) => n.node),
                }
              : null;
            const s = decideRolling({
              op,
              args,
              anOp: (x) => ops.get(x),
              node: (n) =>
                well({
                  desired: desired.get(n) ?? 'active',
                  live: { boot: `boot ${boots.get(n) ?? 0}`, version: '1' },
                  agentBoot: `agent ${boots.get(n) ?? 0}`,
                }),
              next,
              stateMs: (n) => standsMs(`state ${n}`, args.nodes.find((x) => x.node === n)?.state ?? ''),
              textMs: (n) => standsMs(`text ${n}`, args.nodes.find((x) => x.node === n)?.text ?? ''),
            });
            const lines = new Map(s.nodes.map((n) => [n.node, n]));
            for (const a of s.acts) {
              if (a.do === 'cancel') return false;
              const is = lines.get(a.node);
              if (is === undefined) return false;
              if (a.do === 'work' && desired.get(a.node) !== 'maintenance') return false;
              if (a.do === 'return' && (boots.get(a.node) ?? 0) === 0) return false;
              desired.set(a.node, a.do === 'return' ? 'active' : 'maintenance');
              if (a.do === 'return' && a.vms.length === 0) continue;
              const kind = a.do === 'drain' ? 'node.drain' : a.do === 'work' ? 'node.reboot' : 'node.return';
              const vms = [{ vm: id(99), state: 'moved' }];
              const o = opOf(made++, kind, { args: { node: a.node, restart: false, leave: false, vms } });
              ops.set(o.id, o);
              lines.set(a.node, { ...is, op: o.id });
            }
            args = { ...args, nodes: [...lines.values()] };
            if (underWay(args).length > atOnce) return false;
            if (s.end?.state === 'done')
              return names.every((n) => boots.get(n) === 1 && desired.get(n) === 'active');
            if (s.end?.state === 'failed') {
              if (![...ops.values()].some((o) => o.state === 'failed')) return false;
              args = resumed(args, (x) => ops.has(x) && !opFinished(ops.get(x) as Op));
              op = { ...op, state: 'running' };
              continue;
            }
            for (const o of ops.values()) {
              if (opFinished(o) || (roll() < 50 && pass % 7 !== 0)) continue;
              const state: OpState = roll() < 15 && failures++ < 10 ? 'failed' : 'done';
              ops.set(o.id, { ...o, state });
              const node = (o.args['node'] as string | undefined) ?? '';
              if (o.kind === 'node.reboot' && state === 'done') boots.set(node, (boots.get(node) ?? 0) + 1);
            }
          }
          return false;
        },
      ),
      { numRuns: 150 },
    );
    t.pass('all held');
    t.end();
  },
);
