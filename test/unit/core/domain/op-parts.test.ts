import t from 'tap';
import { queuedOp, type Op } from '../../../../core/domain/op.js';
import { begunFor, opParts, type OpsKnown } from '../../../../core/domain/op-parts.js';

const id = (n: number): string => `00000000-0000-4000-8000-${String(n).padStart(12, '0')}`;
const op = (n: number, kind: Op['kind'], name: string, args: Op['args'], o: Partial<Op> = {}): Op => ({
  ...queuedOp(
    {
      id: id(n),
      kind,
      subject: { kind: kind.startsWith('node') ? 'node' : 'vm', id: 'n1', name },
      node: null,
      askedBy: 'anna',
      args,
    },
    1_000 + n,
  ),
  ...o,
});
const known = (...ops: Op[]): OpsKnown => ({
  op: (x) => ops.find((o) => o.id === x),
  begunBy: (x) => ops.filter((o) => begunFor(o) === x),
  vmName: (x) => (x === id(90) ? 'web' : x === id(91) ? 'db' : x),
});

void t.test('work on nodes in turn is a tree: its nodes, the drain of one, the moves of that', (t) => {
  const move = op(
    3,
    'vm.migrate',
    'web',
    { for: id(2) },
    { state: 'running', step: 'copying', progress: 0.4 },
  );
  const line = { tries: 0, restart: false, text: '' };
  const drain = op(
    2,
    'node.drain',
    'n1',
    {
      node: 'n1',
      restart: false,
      leave: false,
      for: id(1),
      vms: [
        { ...line, vm: id(90), state: 'moving', to: 'n2', op: move.id },
        { ...line, vm: id(91), state: 'stays', text: 'its disks are here only' },
      ],
    },
    { state: 'running', step: '0 of 2', progress: 0 },
  );
  const args = { work: 'reboot', image: null, atOnce: 1, restart: false, bringBack: false, paused: false };
  const nodes = [
    { node: 'n1', state: 'emptying', op: drain.id, text: '' },
    { node: 'n2', state: 'waiting', text: 'waits for n1' },
  ];
  const rolling = op(1, 'cluster.rolling', 'reboot', { ...args, nodes }, { state: 'running' });
  t.same(opParts(rolling, known(rolling, drain, move)), [
    {
      name: 'n1',
      state: 'running',
      text: '0 of 2',
      progress: 0,
      op: drain.id,
      parts: [
        { name: 'web', state: 'running', text: 'to n2', progress: 0.4, op: move.id, parts: [] },
        { name: 'db', state: 'failed', text: 'its disks are here only', progress: null, op: null, parts: [] },
      ],
    },
    { name: 'n2', state: 'waiting', text: 'waits for n1', progress: null, op: null, parts: [] },
  ]);
  t.end();
});

void t.test('what is not listed and was begun for it is a part too; rings end', (t) => {
  const made = op(5, 'vm.create', 'shop-db', { for: id(4) }, { state: 'done' });
  const deploy = op(4, 'vapp.deploy', 'shop', { phase: 'make', for: made.id });
  t.match(opParts(deploy, known(deploy, made)), [
    { name: 'vm create "shop-db"', state: 'done', progress: null, op: made.id },
  ]);
  let depth = 0;
  for (let at = opParts(deploy, known(deploy, made)); at[0] !== undefined; at = [...at[0].parts]) depth++;
  t.equal(depth, 5);
  t.end();
});

void t.test('a failover is its steps with their seconds; what cannot be read has no parts', (t) => {
  const phasesMs = { 'last-beat': 0, 'lease-gone': 2100, running: 12_300 };
  const args = { from: 'n3', to: 'n1', fence: 'waited', atMs: 1, phasesMs };
  const parts = opParts(op(6, 'vm.failover', 'db', args), known());
  t.same(parts.map((p) => [p.name, p.text, p.state]).at(-1), ['QEMU runs', '+10.2 s', 'done']);
  t.same(opParts(op(7, 'vm.failover', 'db', { from: 3 }), known()), []);
  t.same(opParts(op(8, 'node.drain', 'n1', { vms: 'no' }), known()), []);
  t.end();
});
