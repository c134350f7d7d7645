import fc from 'fast-check';
import t from 'tap';
import {
  decideNotify,
  incidentsOf,
  notifyMemoryNone,
  type NotifyView,
} from '../../../../core/decide/notify.js';
import {
  notifyStateNone,
  notifyStateSchema,
  type Incident,
  type IncidentKind,
  type Notification,
  type NotifyState,
} from '../../../../core/domain/notify.js';
import { queuedOp, type Op } from '../../../../core/domain/op.js';
import { ledgerValueBytesMax } from '../../../../core/domain/schema.js';
import { nodeRecord, nodeState, vmState } from '../../controller/rig.js';

const incident = (kind: IncidentKind, key: string, node: string | null = null): Incident => ({
  key: `${kind}/${key}`,
  kind,
  node,
  text: `${kind} of ${key}`,
});

/** A leader that looks every 5 s and sends at once. */
class Leader {
  memory = notifyMemoryNone;
  readonly sent: Notification[] = [];
  readonly world: { state: NotifyState; ms: number };
  readonly silent: ReadonlySet<string>;
  constructor(world: { state: NotifyState; ms: number }, silent: ReadonlySet<string> = new Set()) {
    this.world = world;
    this.silent = silent;
  }

  run(seconds: number, now: (s: number) => Incident[]): this {
    for (let s = 0; s < seconds; s += 5) {
      const { world } = this;
      world.ms += 5_000;
      const d = decideNotify({
        state: world.state,
        memory: this.memory,
        now: now(s),
        silent: this.silent,
        nowMs: world.ms,
        wallMs: world.ms,
      });
      this.memory = d.memory;
      if (d.state === null) continue;
      notifyStateSchema.parse(d.state);
      const { outbox } = d.state;
      if (outbox !== null) this.sent.push(outbox);
      const last = outbox === null ? d.state.last : { by: 'n1', atMs: world.ms, ok: true, text: '' };
      world.state = { ...d.state, outbox: null, last };
    }
    return this;
  }
}
const world = () => ({ state: notifyStateNone, ms: 1_000_000 });

await t.test('a node’s death and its failovers are one notification, and its return another', (t) => {
  const l = new Leader(world());
  const all = [incident('failover', 'a'), incident('failover', 'b'), incident('node-down', 'n3')];
  l.run(300, (s) => all.slice(0, s < 5 ? 0 : s < 10 ? 1 : 3));
  t.same(
    l.sent.map((n) => n.began.map((i) => i.key)),
    [['failover/a', 'failover/b', 'node-down/n3']],
  );
  l.run(900, (s) => (s < 60 ? all.slice(0, 2) : []));
  t.same(
    l.sent.slice(1).map((n) => [n.began.length, n.over.map((i) => i.key)]),
    [[0, ['node-down/n3']]],
    'that a failover is no news any more is not told',
  );
  t.same(l.world.state.open, []);
  t.end();
});

await t.test('what mends itself at once is not told, what flaps is told once an hour', (t) => {
  const l = new Leader(world());
  l.run(600, (s) => (s % 60 < 30 ? [incident('pool', 'fast/n1', 'n1')] : []));
  t.same(l.sent, []);
  // Five minutes bad, five minutes good, for six hours.
  l.run(6 * 3_600, (s) => (s % 600 < 300 ? [incident('pool', 'fast/n1', 'n1')] : []));
  const began = l.sent.filter((n) => n.began.length > 0).length;
  t.ok(began >= 5 && began <= 6, `${began} times in six hours`);
  t.end();
});

await t.test('of a silent node nobody knows whether it is over; another leader tells nothing twice', (t) => {
  const w = world();
  const l = new Leader(w, new Set(['n2'])).run(200, () => [incident('drive', 'n2/S1', 'n2')]);
  t.equal(l.sent.length, 1);
  t.equal(new Leader(w, new Set(['n2'])).run(600, () => []).sent.length, 0);
  const next = new Leader(w).run(600, (s) => (s < 300 ? [incident('drive', 'n2/S1', 'n2')] : []));
  t.same(
    next.sent.map((n) => [n.began.length, n.over.length]),
    [[0, 1]],
  );
  t.end();
});

await t.test('whatever happens: bounded state, bounded pace, nothing open told twice', (t) => {
  const kinds: IncidentKind[] = ['node-down', 'failover', 'pool', 'health'];
  const step = fc.record({
    seconds: fc.integer({ min: 5, max: 900 }),
    now: fc.uniqueArray(fc.nat(199), { maxLength: 150 }),
    fresh: fc.boolean(),
  });
  fc.assert(
    fc.property(fc.array(step, { maxLength: 12 }), (steps) => {
      const w = world();
      let l = new Leader(w);
      for (const s of steps) {
        if (s.fresh) l = new Leader(w);
        const open = new Set(w.state.open.map((i) => i.key));
        const from = l.sent.length;
        const startMs = w.ms;
        const long = s.now.map((i) => ({
          ...incident(kinds[i % kinds.length] ?? 'pool', String(i)),
          text: 'x'.repeat(240),
        }));
        l.run(s.seconds, () => long);
        const sent = l.sent.slice(from);
        if (sent.length > 1 + (w.ms - startMs) / 60_000) return false;
        const began = sent.flatMap((n) => n.began.map((i) => i.key));
        if (new Set(began).size !== began.length || began.some((k) => open.has(k))) return false;
        if (JSON.stringify({ ...w.state, outbox: sent.at(-1) ?? null }).length > ledgerValueBytesMax)
          return false;
      }
      return true;
    }),
    { numRuns: 60 },
  );
  t.end();
});

await t.test('what is an incident', (t) => {
  const pool = '00000000-0000-4000-8000-00000000000a';
  const use = { pool, totalBytes: 100, freeBytes: 50, ok: true, text: '' };
  const well: NotifyView = {
    nodes: [nodeRecord('n1', 0), nodeRecord('n2', 1)],
    live: new Set(['n1', 'n2']),
    ops: [],
    pools: new Map([
      [pool, { id: pool, name: 'fast', kind: 'local', path: '/x', nodes: null, reservePct: 5 }],
    ]),
    heard: [{ node: 'n1', beatAgeMs: 10, state: nodeState('n1', [use]), vms: new Map() }],
  };
  t.same(incidentsOf(well, 0), []);
  const restarts: Op = {
    ...queuedOp(
      {
        id: '00000000-0000-4000-8000-0000000000f0',
        kind: 'node.reboot',
        subject: { kind: 'node', id: 'n2', name: 'n2' },
        node: 'n2',
        askedBy: 'x',
        args: { boot: 'before' },
      },
      0,
    ),
    state: 'running',
  };
  const down = { ...well, live: new Set(['n1']), ops: [restarts] };
  t.same(incidentsOf(down, 29 * 60_000), [], 'a node that was told to restart');
  t.match(incidentsOf(down, 30 * 60_000), [{ kind: 'node-down', text: 'node n2 is down' }]);
  t.match(incidentsOf({ ...down, ops: [{ ...restarts, args: {} }] }, 0), [{ kind: 'node-down' }]);
  const state = nodeState('n1', [{ ...use, freeBytes: 3 }]);
  const vm = vmState(
    { id: '00000000-0000-4000-8000-0000000000b1', name: 'db', generation: 1 },
    'n1',
    'running',
  );
  const copy = { disk: pool, name: 'root', peer: 'n2', hint: '', done: null, leftS: null };
  const bad: NotifyView = {
    ...well,
    nodes: [...well.nodes, { ...nodeRecord('n3', 2), desired: 'leaving' }],
    live: new Set(['n1']),
    ops: [
      {
        id: '00000000-0000-4000-8000-0000000000f1',
        kind: 'vm.failover',
        subject: { kind: 'vm', id: vm.vm, name: 'db' },
        node: 'n1',
        askedBy: 'n1',
        args: {
          from: 'n2',
          to: 'n1',
          fence: 'waited',
          atMs: 1,
          phasesMs: { 'last-beat': 0, running: 12_300 },
        },
        state: 'done',
        step: '',
        progress: 1,
        cancelAsked: false,
        createdMs: 1,
        updatedMs: 2,
        error: null,
      },
    ],
    heard: [
      {
        node: 'n1',
        beatAgeMs: 10,
        state: {
          ...state,
          drives: [
            {
              device: 'sda',
              serial: 'S1',
              model: 'm',
              sizeBytes: 1,
              use: 'pool',
              text: '',
              health: { well: false, text: '8 sectors are lost' },
            },
          ],
          health: [
            { part: 'certificate', ok: false, text: 'it was not renewed' },
            { part: 'lease', ok: false, text: 'follows' },
            { part: 'hypervisor', ok: false, text: 'gone' },
          ],
        },
        vms: new Map([
          [vm.vm, { state: { ...vm, copies: [{ ...copy, state: 'stale', text: 'the copy on n2 is old' }] } }],
        ]),
      },
      { node: 'n2', beatAgeMs: 99_000, state: { ...state, node: 'n2' }, vms: new Map() },
    ],
  };
  t.same(
    incidentsOf(bad, 1_000).map((i) => i.text),
    [
      'certificate of n1: it was not renewed',
      'disk root of VM db: the copy on n2 is old',
      'drive sda of n1: 8 sectors are lost',
      'failover of VM db from n2 to n1: runs again after 12.3 s',
      'hypervisor of n1: gone',
      'node n2 is down',
      'pool fast on n1 is nearly full: 3 B free',
    ],
  );
  t.notOk(
    incidentsOf(bad, 1_000_000).some((i) => i.kind === 'failover'),
    'ten minutes later it is no news',
  );
  t.end();
});
