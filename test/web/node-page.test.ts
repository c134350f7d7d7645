import t from 'tap';
import { createAgentHttp } from '../../agent/http/server.js';
import { metricsText } from '../../agent/status/metrics.js';
import { statusPage } from '../../agent/status/page.js';
import type { StatusView } from '../../agent/status/view.js';
import { TestCa } from '../unit/agent/radio/test-pki.js';
import { sampleState, sampleVm } from '../unit/agent/radio/samples.js';
import {
  nowMs,
  runningVm,
  sampleHeard,
  sampleKeeper,
  sampleView,
  sampleVms,
  vmId,
  wallMs,
} from '../unit/agent/status/samples.js';
import { barriers, looks, openBrowser, openContext, screenshot, sideScroll } from './browser.js';

const token = `flt-api.abcd1234.${'s'.repeat(43)}`;
const ca = await new TestCa(t.testdir({}), 'ca').make();
const tls = await ca.certificate('n1');
let view: StatusView = sampleView();
const http = createAgentHttp({
  host: '127.0.0.1',
  port: 0,
  node: 'n1',
  tls: () => tls,
  verifyToken: ({ id }) =>
    id === 'abcd1234' ? { ok: true, name: 'admin' } : { ok: false, code: 'token-unknown' },
  health: () => ({ ok: true, node: 'n1', version: '0.1.0', fingerprint: '00' }),
  page: ({ still }) =>
    statusPage(view, {
      still,
      local: {
        holds: new Map([[vmId(2), { by: 'anna', atMs: wallMs - 3_600_000 }]]),
        accountsUntilMs: wallMs + 20 * 86_400_000,
      },
    }),
  metrics: () => metricsText(view),
  mounts: [],
  clock: { nowMs: () => performance.now() },
  log: { info: () => undefined, warn: () => undefined, error: () => undefined },
});
await http.start();
const browser = await openBrowser();
t.teardown(async () => {
  await browser.close();
  await http.stop();
});
const address = `https://127.0.0.1:${http.port}`;

/** Much is wrong, names are long and hostile, and every kind of line is there. */
const trouble: StatusView = sampleView({
  ledger: { reachable: false, text: 'none of its 3 voters has answered for 48 s' },
  health: [{ part: 'hypervisor', ok: false, text: 'libvirtd ended at 01:01 and is being started again' }],
  refused: { 'forged-topic': 4, certificate: 2 },
  policy: { ha: { paused: true, hold: true, unsafeWithoutWatchdog: true } },
  keeper: sampleKeeper({
    mode: 'ice',
    goodMs: nowMs - 48_000,
    armed: [vmId(1), vmId(3)],
    held: [
      { vm: vmId(1), why: 'frozen: the ledger has not answered for 48 s' },
      { vm: vmId(77), why: 'killed: n2 owns it with a higher generation' },
    ],
    armable: { ok: false, why: 'no good renewal of its lease' },
    watchdog: { kind: 'software', timeoutMs: 5_000 },
    text: 'none of its 3 voters has answered for 48 s',
  }),
  heard: [
    sampleHeard('n1', {
      state: sampleState('n1', {
        pools: [
          { pool: 'local', totalBytes: 1e12, freeBytes: 4e10, ok: true, text: '' },
          {
            pool: 'shared-on-the-old-filer',
            totalBytes: 5e12,
            freeBytes: 2e12,
            ok: false,
            text: 'write probe failed: stale file handle',
          },
        ],
      }),
      vms: sampleVms(
        runningVm(1, { ha: { state: 'protected', text: '', standby: 'n2' } }),
        runningVm(2, {
          name: '<script>alert(document.cookie)</script>',
          phase: 'crashed',
          reason: 'QEMU was killed by signal 9',
        }),
        runningVm(3, {
          name: `a-very-long-name-${'x'.repeat(46)}`,
          pendingRestart: ['memory 4096 MiB', 'CPUs 4'],
          ha: {
            state: 'unprotected',
            text: 'not protected: no node could take it over: n2 has 512 MiB of memory left, n3 is in maintenance',
            standby: null,
          },
        }),
        runningVm(4, { name: 'データベース', phase: 'paused', stats: null }),
      ),
      events: [
        { atMs: wallMs - 20_000, level: 'error', subject: 'VM web-2', text: 'QEMU was killed by signal 9' },
      ],
    }),
    sampleHeard('n2', { beatAgeMs: 6_200, state: sampleState('n2', { hears: { n1: 400 } }) }),
    sampleHeard('n3', { agentGone: true, connected: false, vms: sampleVms(sampleVm('n3', vmId(9))) }),
    sampleHeard('storage-node-in-rack-17', { beatAgeMs: null, stateAgeMs: null, state: null }),
  ],
});

for (const look of looks) {
  await t.test(`login and page, ${look.name}`, async (t) => {
    const context = await openContext(browser, look);
    t.teardown(() => context.close());
    const page = await context.newPage();
    view = sampleView();
    await page.goto(address);
    t.match(page.url(), /\/login$/, 'a stranger sees the login only');
    t.same(await barriers(page), []);
    await screenshot(page, `node-login-${look.name}`);
    await page.getByLabel('API token').fill('flt-api.wrong');
    await page.getByRole('button', { name: 'Log in' }).click();
    await page.getByRole('alert').waitFor();
    t.same(await barriers(page), []);
    t.equal(await sideScroll(page), 0);
    await page.getByLabel('API token').fill(token);
    await page.getByRole('button', { name: 'Log in' }).click();
    await page.getByRole('status').waitFor();
    t.match(await page.getByRole('status').innerText(), /^All is well/);
    for (const [name, v] of [
      ['well', sampleView()],
      ['no-keeper', sampleView({ keeper: null, policy: null })],
      ['trouble', trouble],
    ] as const) {
      view = v;
      await page.goto(`${address}/?still`);
      t.equal(await sideScroll(page), 0, `${name}: nobody scrolls sideways`);
      t.same(await barriers(page), [], `${name}: no serious barrier`);
      await screenshot(page, `node-${name}-${look.name}`);
    }
    t.equal(await page.getByRole('alert').count(), 1, 'what is unsafe is told to those who only hear, too');
    t.ok(await page.getByText('has frozen the armed VMs').isVisible());
    t.ok(
      await page.getByText('<script>alert(document.cookie)</script>').first().isVisible(),
      'shown as words',
    );
    await page.getByRole('button', { name: 'log out' }).click();
    await page.getByLabel('API token').waitFor();
  });
}

await t.test('it is live without JavaScript, and stands still when asked to', async (t) => {
  const context = await openContext(browser, looks[0], { javaScript: false });
  t.teardown(() => context.close());
  const page = await context.newPage();
  view = sampleView();
  await page.goto(address);
  await page.getByLabel('API token').fill(token);
  await page.getByRole('button', { name: 'Log in' }).click();
  await page.getByText('All is well').waitFor();
  view = trouble;
  await page.getByText('The ledger cannot be reached').waitFor({ timeout: 30_000 });
  await page.getByRole('link', { name: 'stop' }).click();
  await page.getByText('standing still').waitFor();
  const loads: string[] = [];
  page.on('request', (r) => loads.push(r.url()));
  await page.getByRole('link', { name: 'refresh every 5 s' }).click();
  await page.getByRole('link', { name: 'stop' }).waitFor();
  t.match(loads[0], /\/$/);
  const foreign = loads.filter((u) => !u.startsWith(address) && !u.startsWith('data:'));
  t.same(foreign, [], 'nothing is loaded from elsewhere');
});
