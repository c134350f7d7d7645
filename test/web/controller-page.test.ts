import type { Page } from 'playwright-core';
import t from 'tap';
import { bulkArgs } from '../../core/domain/bulk.js';
import { historyOf, type HistoryPoint } from '../../core/domain/history.js';
import type { OpView } from '../../core/wire/rest.js';
import { armed, keeper, lost, made } from '../unit/controller/ha-rig.js';
import { GiB } from '../unit/controller/rig.js';
import { person } from '../unit/controller/people.js';
import { barriers, looks, openContext, screenshot, sideScroll, type Look } from './browser.js';
import { logInByToken, openStage } from './stage.js';

/** The page against a real controller on a ledger in memory, with agents that end what is asked. */
const { l, r, browser } = await openStage(t);
const disks = [{ name: 'root', sizeBytes: GiB, pool: 'shared' }];
const vm = (name: string, node: string) => made(r, { name, disks, node, ha: { enabled: true } });
const [wide] = looks;

const db = await vm('db', 'n1');
await armed(r, 'db', 'n2');
await made(r, { name: 'plain', node: 'n3' });
const { vapp: shop } = (
  await r.call('POST', '/api/v1/vapps', {
    document: {
      kind: 'VApp',
      name: 'shop',
      networks: { back: { isolated: true } },
      members: {
        db: { start: { order: 1, wait: 'tcp', port: 5432 }, vm: { nics: [{ network: 'back' }] } },
        web: { start: { order: 2 }, vm: { nics: [{ network: 'back' }] } },
      },
    },
  })
).body as { vapp: { id: string } };
const { id: lan } = (
  await r.call('POST', '/api/v1/networks', {
    name: 'lan',
    bridge: 'br-lan',
    subnet: '10.1.0.0/24',
    range: ['10.1.0.10', '10.1.0.99'],
  })
).body as { id: string };
const sharedPool = ((await r.call('GET', '/api/v1/pools/shared')).body as { id: string }).id;

await person(r, 'vera', 'viewer');

/** A day that had a quiet night, a gap, and a busy hour. */
const nowS = Math.floor(Date.now() / 30_000) * 30;
const day: HistoryPoint[] = [];
for (let atS = nowS - 86_400; atS < nowS; atS += 30) {
  const ago = (nowS - atS) / 3_600;
  if (ago > 9 && ago < 11) continue;
  const busy = 20 + 15 * Math.sin(atS / 4_000) + (ago < 2 && ago > 1 ? 45 : 0) + (atS % 7);
  const avg = [busy, (2 + busy / 50) * GiB, busy * 30_000, busy * 60_000, busy * 9_000, busy * 4_000];
  day.push({ atS, avg, max: avg.map((n) => n * 1.2) });
}
for (const subject of ['node', db.id])
  for (const node of ['n1', 'n2', 'n3'])
    r.ask.answers.set(`${node} /v1/history/${subject}?span=day`, historyOf('day', day));

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

/** Beside it stand menu, tree and tasks, which name the same things. */
const content = (page: Page) => page.locator('#content');

/** A page that is logged in, and what its policy or scripts complained of. */
async function open(
  t: { teardown(end: () => Promise<void>): void },
  look: Look,
): Promise<{ page: Page; complaints: string[] }> {
  const context = await openContext(browser, look);
  t.teardown(() => context.close());
  const page = await context.newPage();
  const complaints: string[] = [];
  page.on('console', (m) => {
    if (m.type() === 'error') complaints.push(`${m.text()} ${m.location().url}`);
  });
  page.on('pageerror', (e) => complaints.push(e.message));
  await logInByToken(page, l);
  return { page, complaints };
}

await t.test(
  'every page: nothing sticks out, nothing bars the way, nothing is refused by the policy',
  async (t) => {
    const { page, complaints } = await open(t, wide);
    const pages = [
      ['overview', '/', 'All is well'],
      ['vms', '/vms', 'plain'],
      ['vm', `/vms/${db.id}`, 'Guest agent'],
      ['vm-performance', `/vms/${db.id}/performance`, 'In figures'],
      ['vm-disks', `/vms/${db.id}/disks`, 'root'],
      ['vm-snapshots', `/vms/${db.id}/snapshots`, 'It has no snapshot.'],
      ['vm-protection', `/vms/${db.id}/protection`, 'it starts on its standby'],
      ['vm-settings', `/vms/${db.id}/settings`, 'Start it on another node'],
      ['vapps', '/vapps', 'shop'],
      ['vapp', `/vapps/${shop.id}`, 'back: shop-back, isolated'],
      ['vapp-document', `/vapps/${shop.id}/document`, '"kind": "VApp"'],
      ['vm-new', '/vms/new', 'The same by command line'],
      ['nodes', '/nodes', 'n3'],
      ['node', '/nodes/n1', 'Lease in the ledger'],
      ['node-performance', '/nodes/n1/performance', 'In figures'],
      ['node-if-it-fails', '/nodes/n1/if-it-fails', '1 of 1 VMs that are on would start elsewhere'],
      ['pools', '/pools', 'shared'],
      ['pool', `/pools/${sharedPool}`, 'One directory that all its nodes mount'],
      ['pool-disks', `/pools/${sharedPool}/disks`, 'db'],
      ['networks', '/networks', 'br-lan'],
      ['network', `/networks/${lan}`, '10.1.0.10 to 10.1.0.99'],
      ['network-vms', `/networks/${lan}/vms`, 'No VM is on it.'],
      ['images', '/images', 'There is no image yet'],
      ['ha', '/ha', 'The only VM with HA is protected.'],
      ['balance', '/balance', 'The cluster is even'],
      ['classes', '/classes', 'There is no class yet'],
      ['templates', '/templates', 'There is no template yet'],
      ['ops', '/ops', 'vm create "plain"'],
      ['tokens', '/tokens', 'admin'],
      ['users', '/users', 'vera'],
      ['sign-on', '/sign-on', 'People log in by name and password'],
      ['notifications', '/notifications', 'Nobody is told of failures'],
      ['me', '/me', 'You came with a token'],
    ] as const;
    for (const look of [looks[0], looks[3]]) {
      await page.setViewportSize({ width: look.width, height: look.height });
      await page.emulateMedia({ colorScheme: look.colorScheme });
      for (const [name, at, text] of pages) {
        await page.goto(l.url + at);
        await content(page).getByText(text).first().waitFor();
        if (name.endsWith('performance')) await page.locator('.u-over').nth(3).waitFor();
        t.equal(await sideScroll(page), 0, `${name}, ${look.name}: nobody scrolls sideways`);
        t.same(await barriers(page), [], `${name}, ${look.name}: no serious barrier`);
        await screenshot(page, `controller-${name}-${look.name}`);
      }
    }
    t.same(complaints, []);
  },
);

await t.test('balance: the mode is set, a rule is made and told what breaks it, and removed', async (t) => {
  const { page, complaints } = await open(t, wide);
  await page.goto(`${l.url}/balance`);
  await page.getByLabel('By itself').selectOption('rules-only');
  await page
    .getByLabel('By itself')
    .locator('option:checked')
    .getByText('Rules only')
    .waitFor({ state: 'attached' });
  await page.getByRole('button', { name: 'New rule' }).click();
  const dialog = page.getByRole('dialog', { name: 'New rule' });
  await dialog.getByLabel('Name').fill('db-home');
  await dialog.getByLabel('VMs', { exact: true }).fill('db');
  await page.keyboard.press('Enter');
  await dialog.getByLabel('Are to be').selectOption('not-on');
  await dialog.getByLabel('Nodes', { exact: true }).fill('n1');
  await page.keyboard.press('Enter');
  await dialog.getByRole('button', { name: 'Create' }).click();
  const rules = page.getByRole('table', { name: 'Rules' });
  await rules.getByText('db on n1: not on n1').waitFor();
  t.match((await r.call('GET', '/api/v1/rules')).body, { items: [{ name: 'db-home', kind: 'not-on' }] });
  await rules.getByRole('button', { name: 'Remove' }).click();
  await page.getByRole('dialog').getByRole('button', { name: 'Remove' }).click();
  await page.getByText('No rule: VMs are wherever they fit best.').waitFor();
  await page.getByRole('button', { name: 'Reckon' }).click();
  await page.getByText(/more VMs of 2 CPUs and 4 GiB fit/).waitFor();
  await page.getByRole('button', { name: 'Find an order' }).click();
  await page.getByText(/nodes could go down in/).waitFor();
  await page.getByRole('button', { name: 'Begin…' }).click();
  await page.getByRole('dialog').getByRole('button', { name: 'Begin', exact: true }).click();
  const turns = page.getByRole('table', { name: 'Nodes of this work' });
  await turns.getByText('waiting').first().waitFor();
  await page.getByRole('button', { name: 'Pause' }).click();
  await page.getByRole('button', { name: 'Go on' }).waitFor();
  const work = [...r.view.ledger.tables.op.values()].find((o) => o.value.kind === 'cluster.rolling')?.value;
  t.match(work, { args: { work: 'reboot', paused: true } });
  // No agent is there to end it.
  r.memory.poke(`/flotilla/op/${work?.id ?? ''}`, JSON.stringify({ ...work, state: 'cancelled' }));
  await page.getByLabel('By itself').selectOption('recommend');
  t.same(complaints, []);
});

await t.test('charts are zoomed by hand and by buttons, all of a page together', async (t) => {
  const { page, complaints } = await open(t, wide);
  await page.goto(`${l.url}/nodes/n1/performance`);
  const plot = page.locator('.chart .u-over').first();
  await plot.waitFor();
  const highest = page.getByRole('row', { name: /^CPU/ }).locator('td').nth(3);
  const hour = await highest.innerText();
  await page.getByRole('button', { name: '24 hours' }).click();
  await page.getByRole('button', { name: '24 hours', pressed: true }).waitFor();
  const all = await highest.innerText();
  t.not(all, hour);
  const box = await plot.boundingBox();
  if (box === null) throw new Error('the chart has no place');
  // The last hour or so of the day.
  await page.mouse.move(box.x + box.width * 0.97, box.y + 50);
  await page.mouse.down();
  await page.mouse.move(box.x + box.width * 0.995, box.y + 60, { steps: 5 });
  await page.mouse.up();
  await page.getByRole('button', { name: 'All of it' }).waitFor();
  t.not(await highest.innerText(), all, 'the figures are of what is shown');
  await page.getByRole('button', { name: 'All of it' }).click();
  t.equal(await highest.innerText(), all);
  t.same(complaints, []);
});

await t.test('a VM made, changed, started, deleted by hand', async (t) => {
  const { page, complaints } = await open(t, wide);
  await page.getByRole('link', { name: 'New VM' }).click();
  await page.getByLabel('Name', { exact: false }).first().fill('web 1');
  await page.getByLabel('Memory, MiB').fill('512');
  t.match(await page.locator('pre').first().innerText(), /flotilla vm create 'web 1' --cpus 1 --memory 512M/);
  await page.getByRole('button', { name: 'Create and start' }).click();
  await page.getByRole('heading', { name: 'web 1' }).waitFor();
  await content(page).getByText('running', { exact: true }).first().waitFor();
  const made = (await r.call('GET', '/api/v1/vms/web%201')).body as { memoryMiB: number; power: string };
  t.match(made, { memoryMiB: 512, power: 'running' });

  await page.getByRole('tab', { name: 'Settings' }).click();
  await page.getByLabel('Note').fill('by hand');
  await page.getByRole('button', { name: 'Save' }).click();
  await page.getByRole('tab', { name: 'Summary' }).click();
  await page.getByText('by hand').waitFor();

  await page.getByRole('button', { name: 'Shut down' }).click();
  await page.getByRole('dialog').getByText('The guest is asked to shut down').waitFor();
  await page.getByRole('dialog').getByRole('button', { name: 'Shut down' }).click();
  await content(page).getByText('stopped', { exact: true }).first().waitFor();

  await page.getByRole('button', { name: 'Delete' }).click();
  const yes = page.getByRole('dialog').getByRole('button', { name: 'Delete' });
  t.equal(await yes.isDisabled(), true, 'not before it was said twice');
  await page.getByRole('dialog').getByRole('checkbox').check();
  await yes.click();
  await page.getByRole('heading', { name: 'VMs' }).waitFor();
  // Accepted is not done: its line goes when its owner has taken it down.
  await content(page).getByText('plain', { exact: true }).first().waitFor();
  await content(page).getByText('web 1', { exact: true }).waitFor({ state: 'detached' });
  t.equal((await r.call('GET', '/api/v1/vms/web%201')).status, 404);
  // The page may ask for the VM just as it goes.
  t.same(
    complaints.filter((c) => !/\b404\b/.test(c)),
    [],
  );
});

await t.test('a refusal is shown in the server’s words, and nothing is lost of what was typed', async (t) => {
  const { page } = await open(t, wide);
  await page.goto(`${l.url}/vms/new`);
  await page.getByLabel('Name', { exact: false }).first().fill('db');
  await page.getByRole('button', { name: 'Create and start' }).click();
  t.match(await page.getByRole('alert').innerText(), /name-taken/);
  t.equal(await page.getByLabel('Name', { exact: false }).first().inputValue(), 'db');
});

await t.test('the strip lists what runs, says how long still, and cancels it', async (t) => {
  const { page, complaints } = await open(t, wide);
  const now = Date.now();
  const op = {
    id: '00000000-0000-4000-8000-0000000000f9',
    kind: 'vm.export',
    subject: { kind: 'vm', id: db.id, name: 'db' },
    node: 'n1',
    askedBy: 'anna',
    args: {},
    state: 'running',
    step: 'packing disk root',
    progress: 0.5,
    cancelAsked: false,
    createdMs: now - 60_000,
    updatedMs: now,
    error: null,
  };
  r.memory.poke(`/flotilla/op/${op.id}`, JSON.stringify(op));
  const strip = page.getByRole('region', { name: 'Operations' });
  await strip.getByRole('button', { name: /running$/ }).click();
  const list = page.getByRole('dialog');
  await list.getByText(/^packing disk root, about 1 min( 0 s)? left$/).waitFor({ timeout: 60_000 });
  t.same(await barriers(page), []);
  await screenshot(page, 'controller-strip');
  // The older one stands below.
  await list.getByRole('button', { name: 'Cancel' }).last().click();
  await list.getByRole('button', { name: 'Cancelling' }).waitFor();
  r.memory.poke(`/flotilla/op/${op.id}`, JSON.stringify({ ...op, state: 'cancelled' }));
  await list.getByText(/packing disk root/).waitFor({ state: 'detached' });
  t.same(complaints, []);
});

await t.test('Ctrl-K finds a VM by a part of its name', async (t) => {
  const { page } = await open(t, wide);
  await page.keyboard.press('Control+k');
  await page.getByLabel('Name, address, MAC or tag').fill('pla');
  await page.keyboard.press('Enter');
  await page.getByRole('heading', { name: 'plain' }).waitFor();
});

await t.test('Ctrl-K leads to what can be done, and the page asks before it is', async (t) => {
  const { page, complaints } = await open(t, wide);
  const find = async (text: string): Promise<void> => {
    await page.keyboard.press('Control+k');
    await page.getByLabel('Name, address, MAC or tag').fill(text);
  };
  await find('migr db');
  await page.getByRole('link', { name: /^Migrate db/ }).waitFor();
  t.same(await barriers(page), []);
  await page.keyboard.press('Enter');
  const asks = page.getByRole('dialog', { name: 'Move "db" to another node while it runs?' });
  await asks.waitFor();
  t.equal(new URL(page.url()).search, '', 'coming back does not ask again');
  await asks.getByRole('button', { name: 'Leave it' }).click();
  await asks.waitFor({ state: 'detached' });
  // From the same page, too.
  await find('db shut');
  await page.keyboard.press('Enter');
  await page.getByRole('dialog', { name: 'Shut down "db"?' }).waitFor();
  await page.keyboard.press('Escape');
  await find('maint n2');
  await page.keyboard.press('Enter');
  await page.getByRole('dialog', { name: /Set n2 to maintenance/ }).waitFor();
  t.same(complaints, []);
});

await t.test('many VMs migrate at once, after it was said where each would go and what stays', async (t) => {
  const body = { name: 'mover', node: 'n1', power: 'running', disks };
  t.equal((await r.call('POST', '/api/v1/vms', body)).status, 202);
  await armed(r, 'mover', 'n2');
  const { page, complaints } = await open(t, wide);
  await page.goto(`${l.url}/vms`);
  await page.getByLabel('Choose all shown').check();
  await page
    .getByRole('region', { name: 'With the chosen VMs' })
    .getByRole('button', { name: 'Migrate' })
    .click();
  const dialog = page.getByRole('dialog');
  await dialog.getByText('db: it was asked to stop').waitFor();
  await dialog.getByText(/^\d+ to n\d/).waitFor();
  t.same(await barriers(page), []);
  await screenshot(page, 'controller-bulk-migrate');
  const yes = dialog.getByRole('button', { name: /^Migrate \d+$/ });
  const count = Number((await yes.innerText()).replace('Migrate ', ''));
  t.ok(count > 0);
  await yes.click();
  await dialog.waitFor({ state: 'detached' });
  const ops = (await r.call('GET', '/api/v1/ops?kind=vm.bulk')).body as { items: OpView[] };
  const [one, ...others] = ops.items;
  t.same(others, [], 'one operation, which does some at a time');
  const lines = one === undefined ? [] : (bulkArgs(one)?.vms ?? []);
  t.equal(lines.filter((v) => v.text === '').length, count);
  t.same(complaints, []);
});

await t.test('what happens is there by itself, and trouble is said in words', async (t) => {
  const { page } = await open(t, wide);
  await page.getByText('All is well').waitFor();
  await trouble();
  await page.getByText('What needs a hand').waitFor();
  await page.goto(`${l.url}/ha`);
  t.match(await page.getByRole('alert').innerText(), /^Unsafe:/);
  await page.getByText('n3 → n1 in 12.3 s').waitFor();
  t.ok(await page.getByRole('table', { name: 'VMs that wait for a failover' }).isVisible());
  t.ok(await page.getByText('<b>no watchdog</b>').first().isVisible(), 'shown as words');
  for (const look of [looks[1], looks[2]]) {
    await page.setViewportSize({ width: look.width, height: look.height });
    await page.emulateMedia({ colorScheme: look.colorScheme });
    for (const [name, at] of [
      ['overview', '/'],
      ['ha', '/ha'],
    ] as const) {
      await page.goto(l.url + at);
      await page.getByRole('status').first().waitFor();
      t.equal(await sideScroll(page), 0, `${name} in trouble, ${look.name}: nobody scrolls sideways`);
      t.same(await barriers(page), [], `${name} in trouble, ${look.name}: no serious barrier`);
      await screenshot(page, `controller-trouble-${name}-${look.name}`);
    }
  }
});

await t.test('without a session there is only the login', async (t) => {
  const context = await openContext(browser, wide);
  t.teardown(() => context.close());
  const page = await context.newPage();
  await page.goto(`${l.url}/vms`);
  t.match(page.url(), /\/login$/);
});

await t.test('a class is made and changed, a snapshot is taken, a disk grows, by hand', async (t) => {
  const { page, complaints } = await open(t, wide);
  const dialog = (name: RegExp) => page.getByRole('dialog', { name });
  await page.goto(`${l.url}/classes`);
  await page.getByRole('button', { name: 'New class' }).click();
  await dialog(/^New class/)
    .getByLabel('Name')
    .fill('gold');
  await dialog(/^New class/)
    .getByRole('checkbox')
    .first()
    .check();
  await dialog(/^New class/)
    .getByRole('button', { name: 'Create' })
    .click();
  const classes = page.getByRole('table', { name: 'Classes' });
  await classes.getByText('gold').waitFor();
  await classes.getByRole('button', { name: 'Change' }).click();
  await dialog(/^Change class/)
    .getByLabel('Note')
    .fill('for what must not fail');
  await dialog(/^Change class/)
    .getByRole('button', { name: 'See what changes' })
    .click();
  await dialog(/^Change class/)
    .getByText('No VM becomes otherwise.')
    .waitFor();
  await screenshot(page, 'controller-class-change');
  await dialog(/^Change class/)
    .getByRole('button', { name: 'Change it so' })
    .click();
  await classes.getByText('for what must not fail').waitFor();

  await page.goto(`${l.url}/vms/${db.id}/snapshots`);
  await page.getByRole('button', { name: 'Take a snapshot' }).click();
  await dialog(/^Snapshot of/)
    .getByLabel('Name')
    .fill('before-work');
  await screenshot(page, 'controller-snapshot-new');
  await dialog(/^Snapshot of/)
    .getByRole('button', { name: 'Take it' })
    .click();
  await page.getByRole('table', { name: 'Snapshots' }).getByText('before-work').waitFor();

  await page.goto(`${l.url}/vms/${db.id}/disks`);
  await content(page).getByRole('button', { name: 'Grow' }).first().click();
  await dialog(/^Grow disk/)
    .getByLabel('New size, GiB')
    .fill('5');
  await dialog(/^Grow disk/)
    .getByRole('button', { name: 'Grow it' })
    .click();
  await dialog(/^Grow disk/).waitFor({ state: 'hidden' });
  await content(page).getByText('5 GiB').first().waitFor();
  await content(page).getByRole('button', { name: 'Move' }).first().click();
  await dialog(/^Move disk/)
    .getByLabel('Pool')
    .waitFor();
  t.same(await barriers(page), [], 'the dialog of a move bars nobody');
  await screenshot(page, 'controller-disk-move');
  t.ok(
    await dialog(/^Move disk/)
      .getByRole('button', { name: 'Move it' })
      .isDisabled(),
    'where it is it does not move to',
  );
  t.same(complaints, []);
});
