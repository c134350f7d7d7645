import t from 'tap';
import { lab } from '../unit/controller/cli-rig.js';
import { armed, haRig, keeper, lost, made } from '../unit/controller/ha-rig.js';
import { GiB } from '../unit/controller/rig.js';
import { barriers, looks, openBrowser, openContext, screenshot, sideScroll } from './browser.js';

const l = await lab(haRig);
const { r } = l;
const browser = await openBrowser();
t.teardown(async () => {
  await browser.close();
  await l.stop();
});
const disks = [{ name: 'root', sizeBytes: GiB, pool: 'shared' }];
const vm = (name: string, node: string) => made(r, { name, disks, node, ha: { enabled: true } });

await vm('db', 'n1');
await armed(r, 'db', 'n2');
await made(r, { name: 'plain', node: 'n3' });

/** A node is gone, failovers are held, a keeper would not arm, and somebody allowed what is unsafe. */
async function trouble(): Promise<void> {
  const db = (await r.call('GET', '/api/v1/vms/db')).body as { id: string };
  await vm('a-very-long-name-xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx', 'n3');
  const why =
    'not protected: no node could take it over: n1 is not alive in the ledger; n2: <b>no watchdog</b>';
  await armed(r, 'a-very-long-name-xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx', 'n2', {
    state: 'unprotected',
    text: why,
    standby: null,
  });
  const n2 = r.radio.nodes.get('n2');
  if (n2 !== undefined)
    n2.state = {
      ...n2.state,
      keeper: keeper({ armable: false, why: 'there is no watchdog', watchdog: 'none' }),
      health: [{ part: 'failover', ok: false, text: 'VM "db": the keeper of n2 would not arm: no watchdog' }],
    };
  const phasesMs = { 'last-beat': 0, 'lease-gone': 2100, 'wait-over': 9200, owned: 9250, running: 12_300 };
  const id = '00000000-0000-4000-8000-0000000000f1';
  const op = {
    id,
    kind: 'vm.failover',
    subject: { kind: 'vm', id: db.id, name: 'db' },
    node: 'n1',
    askedBy: 'n1',
    args: { from: 'n3', to: 'n1', fence: 'waited', atMs: Date.now() - 60_000, phasesMs },
    state: 'done',
    step: '',
    progress: 1,
    cancelAsked: false,
    createdMs: Date.now(),
    updatedMs: Date.now(),
    error: null,
  };
  r.memory.poke(`/flotilla/op/${id}`, JSON.stringify(op));
  await r.call('PATCH', '/api/v1/policy', { ha: { hold: true, unsafeWithoutWatchdog: true } });
  await lost(r, 'n1');
}

for (const name of ['well', 'trouble']) {
  if (name === 'trouble') {
    // A test of its own: between two the runner would take all for done.
    await t.test('trouble comes', async (t) => {
      await trouble();
      t.match((await r.call('GET', '/api/v1/ha')).body, { waiting: [{ name: 'db' }] });
    });
  }
  for (const look of looks) {
    await t.test(`the controller's page, ${name}, ${look.name}`, async (t) => {
      const context = await openContext(browser, look);
      t.teardown(() => context.close());
      const page = await context.newPage();
      await page.goto(l.url);
      await page.getByLabel('API token').fill(r.token);
      await page.getByRole('button', { name: 'Log in' }).click();
      await page.getByRole('status').waitFor();
      await page.goto(`${l.url}/?still`);
      t.equal(await sideScroll(page), 0, 'nobody scrolls sideways');
      t.same(await barriers(page), [], 'no serious barrier');
      await screenshot(page, `controller-${name}-${look.name}`);
      if (name === 'well') {
        t.equal(await page.getByRole('alert').count(), 0);
        t.ok(await page.getByText('The only VM with HA is protected.').isVisible());
        return;
      }
      t.match(await page.getByRole('alert').innerText(), /^Unsafe:/);
      t.ok(await page.getByText('Failovers are held:').isVisible());
      t.ok(await page.getByRole('heading', { name: 'VMs that wait for a failover' }).isVisible());
      t.ok(await page.getByText('n3 → n1 in 12.3 s').isVisible());
      t.ok(await page.getByText('<b>no watchdog</b>').first().isVisible(), 'shown as words');
    });
  }
}
