import t from 'tap';
import { FailoverCount } from '../../../../agent/status/failover-count.js';
import { metricsText } from '../../../../agent/status/metrics.js';
import { statusPage } from '../../../../agent/status/page.js';
import { verdict } from '../../../../agent/status/verdict.js';
import type { StatusView } from '../../../../agent/status/view.js';
import type { Op } from '../../../../core/domain/op.js';
import { nowMs, runningVm, sampleHeard, sampleKeeper, sampleView, sampleVms, vmId } from './samples.js';

const page = async (v: StatusView): Promise<string> =>
  (await statusPage(v, { still: true })).replaceAll(/\s+/g, ' ');
const ha = (o: object) => ({ ha: { paused: false, hold: false, unsafeWithoutWatchdog: false, ...o } });

await t.test('a well keeper: mode, renewal, watchdog, what is armed', async (t) => {
  const text = await page(sampleView());
  for (const part of [
    'runs: this node holds its lease',
    'sent 0.4 s ago',
    'hardware; resets this node 5.0 s after the last pet',
    'others wait 7.0 s',
    '<dt>Armed VMs</dt> <dd>web-1</dd>',
  ])
    t.match(text, part);
  t.notMatch(text, 'Held VMs');
  t.notMatch(text, 'class="banner');
  t.match(await page(sampleView({ keeper: sampleKeeper({ armed: [] }) })), 'none: this node is never reset');
});

await t.test('a node that is cut off says so by itself, without ledger', async (t) => {
  const keeper = sampleKeeper({
    mode: 'ice',
    goodMs: nowMs - 48_000,
    createRevision: null,
    held: [{ vm: vmId(1), why: 'frozen: the ledger does not answer' }],
    armable: { ok: false, why: 'it is not in RUN' },
    text: 'none of 3 voters has answered',
  });
  const v = sampleView({ keeper, ledger: { reachable: false, text: '' } });
  const text = await page(v);
  for (const part of [
    'has frozen the armed VMs',
    'none of 3 voters has answered',
    'sent 48 s ago',
    '<strong class="bad">web-1:</strong> frozen: the ledger does not answer',
    'no:</span> it is not in RUN',
  ])
    t.match(text, part);
  t.equal(verdict(v).level, 'bad');
  const needs = verdict(v).needs.map((n) => n.text);
  t.ok(needs.some((n) => n.startsWith('The keeper holds VM web-1: frozen')));
  t.ok(needs.some((n) => n.includes('VMs with HA are frozen, the others go on')));
});

await t.test('no keeper, no watchdog, nothing renewed yet', async (t) => {
  t.match(
    await page(sampleView({ keeper: null, policy: null })),
    /The keeper does not answer:<\/span> nothing can/,
  );
  const keeper = sampleKeeper({
    goodMs: null,
    watchdog: { kind: 'none', timeoutMs: 0 },
    armable: { ok: false, why: 'there is no watchdog' },
  });
  const text = await page(sampleView({ keeper, policy: null }));
  t.match(text, /none yet/);
  t.match(text, /<dt>Watchdog<\/dt> <dd><span class="bad">none<\/span><\/dd>/);
  t.match(text, 'no:</span> there is no watchdog');
  t.match(text, 'not read from the ledger yet');
  t.notMatch(text, /undefined|NaN|\[object/);
});

await t.test('switches of the cluster stand at the head of the page', async (t) => {
  const unsafe = sampleView({ policy: ha({ unsafeWithoutWatchdog: true }) });
  t.match(await page(unsafe), /<main> *<p class="banner bad" role="alert"> *<strong>Unsafe:/);
  t.equal(verdict(unsafe).level, 'bad', 'not "All is well" below it');
  const held = sampleView({ policy: ha({ paused: true, hold: true }) });
  const text = await page(held);
  t.match(text, '<strong>HA is paused</strong>');
  t.match(text, 'Failovers are held:');
  t.equal(verdict(held).level, 'warn');
});

await t.test('how VMs stand is said with them, hostile words as words', async (t) => {
  const evil = '<img src=x onerror=alert(1)>';
  const bare = { state: 'unprotected', text: `not protected: ${evil}`, standby: null } as const;
  const v = sampleView({
    keeper: sampleKeeper({ held: [{ vm: evil, why: evil }], text: evil, armable: { ok: false, why: evil } }),
    heard: [
      sampleHeard('n1', {
        vms: sampleVms(
          runningVm(1, { ha: { state: 'protected', text: '', standby: 'n2' } }),
          runningVm(2, { ha: bare }),
          runningVm(3, { ha: bare }),
          runningVm(4, { ha: { state: 'paused', text: 'HA is paused in the whole cluster', standby: null } }),
        ),
      }),
    ],
  });
  const text = await page(v);
  t.match(text, '<span class="quiet">standby n2</span>');
  t.match(text, '<span class="bad">not protected</span>: &lt;img');
  t.match(text, '<span class="warn">HA paused</span>');
  t.notMatch(text, '<img');
  t.match(
    verdict(v).needs.map((n) => n.text),
    [/The keeper holds VM <img/, `VMs web-2 and web-3 are not protected: ${evil}.`],
    'one line for one reason',
  );
});

await t.test('metrics of the keeper', (t) => {
  const lines = metricsText(sampleView({ failovers: 2, policy: ha({ hold: true }) })).split('\n');
  for (const line of [
    'flotilla_keeper_up 1',
    'flotilla_keeper_mode{mode="run"} 1',
    'flotilla_keeper_mode{mode="ice"} 0',
    'flotilla_keeper_renewal_age_seconds 0.4',
    'flotilla_keeper_armed_vms 1',
    'flotilla_keeper_held_vms 0',
    'flotilla_keeper_armable 1',
    'flotilla_ha_policy{switch="hold"} 1',
    'flotilla_ha_policy{switch="unsafeWithoutWatchdog"} 0',
    'flotilla_failovers_total 2',
  ])
    t.ok(lines.includes(line), line);
  const gone = metricsText(sampleView({ keeper: null, policy: null }));
  t.match(gone, /^flotilla_keeper_up 0$/m);
  t.notMatch(gone, /keeper_mode|ha_policy/);
  t.end();
});

await t.test('failovers to this node are counted once, those of before not', (t) => {
  const op = (id: string, to: string, kind = 'vm.failover') => ({ id, kind, args: { to } }) as unknown as Op;
  const count = new FailoverCount('n1');
  count.look([op('a', 'n1')]);
  t.equal(count.total, 0);
  count.look([op('a', 'n1'), op('b', 'n1'), op('c', 'n2'), op('d', 'n1', 'vm.start')]);
  count.look([op('b', 'n1')]);
  count.look([op('b', 'n1')]);
  t.equal(count.total, 1);
  t.end();
});
