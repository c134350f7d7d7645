import type { Locator, Page } from 'playwright-core';
import t from 'tap';
import type { Op } from '../../core/domain/op.js';
import { barriers, looks, openBrowser, openContext, screenshot } from '../web/browser.js';
import { LabCluster } from './cluster.js';
import { waitFor } from './harness.js';
import { tinyImage } from './witness.js';

/** One person, one page, real nodes: from founding to the loss of a node, all of it as she sees it in Chromium. */
const c = new LabCluster({ id: 'flpage', net: '10.61.0', guestNet: '10.61.100', timing: 'production' });
const { lab } = c;
const browser = await openBrowser();
t.teardown(async () => {
  // The last picture, for whoever looks into a failure.
  await screenshot(page, 'lab-page-end').catch(() => undefined);
  await browser.close();
  await lab.down();
});
t.setTimeout(900_000);

/** What an emulated guest needs on a machine that has much else to do. */
const limit = { timeout: 240_000 };
const nodes = ['n1', 'n2', 'n3'];
const page: Page = await (await openContext(browser, looks[0])).newPage();
page.setDefaultTimeout(limit.timeout);
const complaints: string[] = [];
page.on('pageerror', (e) => complaints.push(e.message));
page.on('console', (m) => {
  if (/Content Security Policy|Refused to/.test(m.text())) complaints.push(m.text());
});
const content = page.locator('#content');
const dialog = page.getByRole('dialog');
let vmId = '';

/** The tab of the VM, by its address: any controller has it. */
const vmTab = (tab: string): Promise<unknown> => page.goto(`${c.url}/vms/${vmId}/${tab}`);
const nodeRow = (node: string): Locator =>
  content.getByRole('row').filter({ has: page.getByRole('link', { name: node, exact: true }) });

/** Numbers of the ticks that the terminal shows, in the order of its lines. */
async function ticks(): Promise<number[]> {
  const text = await page.locator('.xterm-rows').innerText();
  return [...text.matchAll(/TINY tick (\d+) up/g)].map((m) => Number(m[1]));
}

/** Waits for a tick beyond this one. @returns it */
const tickAfter = (n: number): Promise<number> =>
  waitFor(
    `a tick after ${n}`,
    async () => {
      const found = (await ticks()).find((x) => x > n);
      if (found === undefined) throw new Error(await page.locator('.console').innerText());
      return found;
    },
    { limitMs: limit.timeout },
  );

/** The console's own word of where the machine is. */
const consoleOn = (node: string): Promise<void> =>
  page.locator('.console [role=status]', { hasText: `open: on ${node}` }).waitFor(limit);

const owner = async (): Promise<string> => (await c.vm('web')).node;

/** That controller dies and stays dead; another one, at another node, is spoken to. */
async function otherController(from: string, to: string): Promise<void> {
  await lab.sh(from, 'systemctl kill -s KILL flotilla-controller; systemctl stop flotilla-controller');
  await c.controllerOn(to);
}

await t.test('found: a cluster of one node, and its first admin logs in', async (t) => {
  await lab.down();
  await lab.up(nodes.length);
  await c.found();
  await c.controllerOn('n1');
  await page.goto(c.url);
  await page.getByLabel('Name').fill('admin');
  await page.getByLabel('Password').fill(c.adminPassword);
  await page.getByRole('button', { name: 'Log in' }).click();
  await page.getByRole('link', { name: 'Nodes', exact: true }).click();
  await nodeRow('n1').getByText('here').waitFor(limit);
  t.equal(await nodeRow('n2').count(), 0);
});

for (const node of nodes.slice(1))
  await t.test(`admit ${node}: heard by itself, compared, clicked`, async (t) => {
    await content.getByRole('button', { name: 'Add node' }).click();
    const look = dialog.getByRole('button', { name: `Look at ${node}` });
    await waitFor(`${node} is heard`, async () => {
      if (await look.isVisible()) return true;
      await dialog.getByRole('button', { name: 'Listen again' }).click();
      return false;
    });
    await look.click();
    const shown = await dialog.locator('pre').innerText();
    t.equal(shown.trim(), await lab.sh(node, "sed -n 's/^fingerprint=//p' /run/flotilla/screen"));
    const admit = dialog.getByRole('button', { name: `Admit ${node}` });
    t.ok(await admit.isDisabled(), 'not before it was compared');
    await dialog.getByRole('checkbox').check();
    await admit.click();
    await dialog.getByText(`${node} is admitted`).waitFor(limit);
    await page.keyboard.press('Escape');
    await nodeRow(node).getByText('here').waitFor(limit);
  });

await t.test('create a VM: it is on the page, and its console prints', async (t) => {
  await c.untilHere(nodes.length);
  await waitFor('three voters', async () => {
    const { body } = await c.get<{ items: { record: { voter: boolean } }[] }>('nodes');
    return body.items.filter((n) => n.record.voter).length === nodes.length;
  });
  await c.must('POST', 'pools', { name: 'shared', kind: 'shared', path: '/srv/shared' });
  await waitFor('the pool is known of every node', async () => {
    const { body } = await c.get<{ items: { use: { ok: boolean }[] }[] }>('pools');
    return body.items.every((p) => p.use.length === nodes.length && p.use.every((u) => u.ok));
  });
  await c.image('tiny', 'shared', tinyImage());
  await page.getByRole('link', { name: 'VMs', exact: true }).click();
  await page.getByRole('link', { name: 'New VM' }).click();
  await page.getByLabel('Name').fill('web');
  await page.getByLabel('Memory, MiB').fill('96');
  await choose('First disk from', 'tiny');
  await choose('Pool', 'shared (shared)');
  await choose('Node', 'n1');
  await page.getByRole('switch', { name: 'Start it on another node when its own fails' }).check();
  await page.getByRole('button', { name: 'Create and start' }).click();
  await page.getByRole('heading', { name: 'web' }).waitFor();
  vmId = (await c.vm('web')).id;
  await content.getByText('running', { exact: true }).first().waitFor(limit);
  await page.getByRole('tab', { name: 'Serial console' }).click();
  t.ok((await tickAfter(0)) > 0);
  await consoleOn('n1');
});

/** Of a list that opens below its field. */
async function choose(field: string, option: string): Promise<void> {
  await page.getByRole('combobox', { name: field, exact: true }).click();
  await page.getByRole('option', { name: option, exact: true }).click();
}

/** Opens what a button asks first, says yes. @returns what it said would happen */
async function confirm(button: string, yes = button): Promise<string> {
  await content.getByRole('button', { name: button, exact: true }).click();
  const go = dialog.getByRole('button', { name: yes, exact: true });
  await waitFor('it may be', async () => !(await go.isDisabled()));
  const said = await dialog.innerText();
  await go.click();
  await dialog.waitFor({ state: 'detached' });
  return said;
}

await t.test('migrate it: the console in the same tab goes on, in the same boot', async (t) => {
  await vmTab('protection');
  await content.getByText(/^Protected:/).waitFor(limit);
  await vmTab('serial');
  const before = await tickAfter(0);
  const said = await confirm('Migrate');
  const to = /From n1 to (n\d)/.exec(said)?.[1] ?? '';
  t.ok(nodes.includes(to), said);
  await consoleOn(to);
  await tickAfter(before + 2);
  const seen = await ticks();
  t.same(
    seen,
    [...seen].sort((a, b) => a - b),
    'it never began again',
  );
  t.equal(await owner(), to);
});

await t.test('drain its node; the controller is killed in the middle, another one goes on', async (t) => {
  await vmTab('protection');
  await content.getByText(/^Protected:/).waitFor(limit);
  const from = await owner();
  const other = nodes.find((n) => n !== from && n !== 'n1') ?? '';
  await page.goto(`${c.url}/nodes/${from}`);
  await confirm('Maintenance', 'Set to maintenance');
  await content.getByText('Its VMs are being moved away').waitFor(limit);
  const [op] = (await c.get<{ items: Op[] }>('ops?kind=node.drain&limit=1')).body.items;
  if (op === undefined) throw new Error('there is no drain');
  await otherController('n1', other);
  await page.getByText('Connection lost: this is old').waitFor(limit);
  await page.goto(`${c.url}/nodes/${from}`);
  await content.getByText('maintenance', { exact: true }).waitFor(limit);
  t.match(await c.opEnd(op), { state: 'done' });
  await content.getByRole('tab', { name: 'VMs (0)' }).waitFor(limit);
  await vmTab('serial');
  const to = await owner();
  t.not(to, from);
  await consoleOn(to);
  const last = (await ticks()).at(-1) ?? 0;
  await tickAfter(last);
  await page.goto(`${c.url}/nodes/${from}`);
  await confirm('Set active', 'Set to active');
  await content.getByText('maintenance', { exact: true }).waitFor({ state: 'detached', ...limit });
});

await t.test('lose its node: the page tells it, and the same tab shows the new boot', async (t) => {
  await vmTab('protection');
  await content.getByText(/^Protected:/).waitFor(limit);
  const lost = await owner();
  // The controller that is spoken to must not be lost with it.
  const safe = nodes.find((n) => n !== lost && n !== 'n1') ?? 'n1';
  await c.controllerOn(safe);
  await vmTab('serial');
  const before = await tickAfter(10);
  await lab.kill(lost);
  // Looked for from now on: a boot that is seen late has counted as far as the one before.
  const [to] = await Promise.all([
    waitFor('another owner', async () => {
      const now = await owner();
      return now === lost ? null : now;
    }),
    waitFor('it begins again', async () => ((await ticks()).at(-1) ?? before) < before, {
      limitMs: limit.timeout,
    }),
  ]);
  await consoleOn(to);
  await page.goto(c.url);
  await page.getByText('What needs a hand').waitFor(limit);
  t.same(await barriers(page), []);
  await page.getByRole('link', { name: 'High availability' }).click();
  const failovers = page.getByRole('table', { name: 'Last failovers' });
  await failovers.getByText(new RegExp(`${lost} → ${to} in \\d`)).waitFor(limit);
  await lab.boot(lost);
  await page.getByRole('link', { name: 'Nodes', exact: true }).click();
  await nodeRow(lost).getByText('here').waitFor(limit);
  t.same(complaints, []);
});
