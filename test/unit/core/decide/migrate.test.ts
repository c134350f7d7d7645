import t from 'tap';
import { decideMigration, type MigrationView } from '../../../../core/decide/migrate.js';
import { migratePolicyDefault } from '../../../../core/domain/migration.js';

const view = {
  me: 'n1',
  op: {
    id: 'back',
    kind: 'vm.migrate',
    state: 'queued',
    args: { from: 'n1', to: 'n2', policy: migratePolicyDefault, ready: { live: '7', waitMs: null } },
  },
  spec: { name: 'web', power: 'running' },
  own: { owner: 'n1', state: 'running', gen: 3, copies: [], sync: 'ok', migration: null },
  domain: { active: true, state: 'running', mark: { gen: 3, generation: 1, startedMs: 1 } },
  live: () => 7n,
  knownMs: 0,
} as unknown as MigrationView;

await t.test('it begins once its machine is known as this node’s own', async (t) => {
  t.match(decideMigration(view), { do: 'begin', ready: { live: '7' } });
  const mark = { gen: 2, generation: 1, startedMs: 1, incoming: true };
  const arriving = { ...view, domain: { ...view.domain, mark } as MigrationView['domain'] };
  t.same(decideMigration(arriving), { do: 'none' }, 'another migration brought it, and is not quite over');
  const cancelled = { ...arriving, op: { ...view.op, cancelAsked: true } };
  t.match(decideMigration(cancelled), { do: 'cancelled' });
});

await t.test('one whose copy does not go on is over', async (t) => {
  const came = { to: 'n2', op: 'back', gen: 2, handedOver: true };
  const there = (o: object): unknown =>
    decideMigration({
      ...view,
      me: 'n2',
      own: { ...view.own, owner: 'n2', migration: came, ...o },
      domain: { ...view.domain, active: false } as MigrationView['domain'],
    });
  t.same(there({}), { do: 'none' }, 'it is started afresh first');
  t.match(there({ state: 'stopped' }), { do: 'done', step: 'is on n2' }, 'it is held off there');
});
