import type { Page } from 'playwright-core';
import t from 'tap';
import { queuedOp, type Op } from '../../core/domain/op.js';
import { inject } from '../../scripts/lib/bench/api-list.js';
import { lab } from '../unit/controller/cli-rig.js';
import { haRig } from '../unit/controller/ha-rig.js';
import { barriers, looks, openBrowser, openContext, screenshot, sideScroll } from './browser.js';
import { builtPage, logInByToken } from './stage.js';

/** A cluster of 16 nodes with 400 VMs: lists, what of them is kept, what runs as a tree, and all of it by the keyboard. */

const vmCount = 400;
const web = await builtPage();
const l = await lab(() =>
  haRig(
    web,
    Array.from({ length: 16 }, (_, i) => `n${i + 1}`),
  ),
);
const { r } = l;
const browser = await openBrowser();
t.teardown(async () => {
  await browser.close();
  if (!stopped) await l.stop();
});
let stopped = false;
const [wide, , narrow] = looks;
const lines = inject(r, vmCount);
await r.view.ledger.refresh();
r.view.fold();

const context = await openContext(browser, wide);
const page: Page = await context.newPage();
page.setDefaultTimeout(60_000);
const complaints: string[] = [];
page.on('pageerror', (e) => complaints.push(e.message));
await logInByToken(page, l);
const content = page.locator('#content');
const search = page.getByRole('search');
const saved = page.getByRole('dialog', { name: 'Saved filters' });

const ids = (n: number): string => `00000000-0000-4000-8000-0000000000e${n}`;
const put = (op: Op): void => r.memory.poke(`/flotilla/op/${op.id}`, JSON.stringify(op));
const op = (n: number, kind: Op['kind'], subject: Op['subject'], args: Op['args'], o: Partial<Op>): Op => ({
  ...queuedOp({ id: ids(n), kind, subject, node: null, askedBy: 'anna', args }, Date.now() - 1_000),
  state: 'running',
  ...o,
});

const failure = { code: 'in-use' as const, message: '1 VM could not go', hint: 'Look at it.', causes: [] };

/** What sticks out or bars the way, at a desk and on a telephone. */
async function faults(name: string): Promise<readonly string[]> {
  const found: string[] = [];
  for (const look of [wide, narrow]) {
    await page.setViewportSize({ width: look.width, height: look.height });
    // The menu's place and what floats follow a moment later.
    const endMs = Date.now() + 60_000;
    let px = await sideScroll(page);
    for (; px !== 0 && Date.now() < endMs; px = await sideScroll(page)) await page.waitForTimeout(100);
    if (px !== 0) found.push(`${name}, ${look.name}: scrolls sideways by ${px} px`);
    found.push(...(await barriers(page)).map((b) => `${name}, ${look.name}: ${b}`));
    await screenshot(page, `lists-${name}-${look.name}`);
  }
  await page.setViewportSize({ width: wide.width, height: wide.height });
  return found;
}

await t.test('400 VMs: only what is seen is drawn, and the filter is the address', async (t) => {
  await page.goto(`${l.url}/vms`);
  await page.getByText(`${vmCount} in all, ${vmCount} shown`).waitFor();
  const rows = page.getByRole('grid', { name: 'VMs' }).getByRole('row');
  t.ok((await rows.count()) < 60, 'a list that is virtual');
  t.equal(await page.getByRole('grid', { name: 'VMs' }).getAttribute('aria-rowcount'), String(vmCount + 1));
  const name = lines[7]?.name ?? '';
  await search.getByLabel('Name, address or MAC').fill(name.toUpperCase());
  await page.getByText('400 in all, 1 shown').waitFor();
  t.match(page.url(), /\?q=/);
  await page.goto(`${l.url}/vms?node=n3`);
  await page.getByText(/400 in all, \d\d shown/).waitFor();
  t.same(await faults('vms'), []);
});

await t.test('filters are kept for each list, and found by Ctrl-K', async (t) => {
  const keep = async (at: string, query: string, name: string): Promise<void> => {
    await page.goto(`${l.url}${at}?${query}`);
    await search.getByRole('button', { name: 'Saved filters' }).click();
    await page.getByLabel('Save this filter as').fill(name);
    await page.getByRole('button', { name: 'Save', exact: true }).click();
    await saved.getByRole('link', { name, exact: true }).waitFor();
  };
  await keep('/nodes', 'presence=here&q=n1', 'ones');
  await keep('/vms', 'node=n2', 'of n2');
  await page.goto(`${l.url}/nodes`);
  await page.getByText('16 in all, 16 shown').waitFor();
  await search.getByRole('button', { name: 'Saved filters' }).click();
  await saved.getByRole('link', { name: 'ones' }).waitFor();
  t.equal(await saved.getByRole('link').count(), 1, 'those of another list are not here');
  t.same(await faults('saved'), []);
  await saved.getByRole('link', { name: 'ones' }).click();
  // n1 and n10 to n16, and addresses like 10.0.0.1 have no n.
  await page.getByText('16 in all, 8 shown').waitFor();
  await page.keyboard.press('Control+k');
  await page.getByLabel('Name, address, MAC or tag').fill('of n2');
  await page.keyboard.press('Enter');
  await page.waitForURL(/\/vms\?node=n2$/);
  for (const [at, none] of [
    ['pools', 'No pool is like that.'],
    ['ops', 'None.'],
  ] as const) {
    await page.goto(`${l.url}/${at}?q=nothing-is-called-so`);
    await content.getByText(none).waitFor();
  }
});

await t.test('what runs is a tree: the drain of a node, the moves in it; each has a page', async (t) => {
  const [a, b, c] = lines.filter((v) => v.node === 'n4');
  if (a === undefined || b === undefined || c === undefined) throw new Error('n4 has too few VMs');
  const line = { tries: 0, restart: false, text: '' };
  const subject = { kind: 'node' as const, id: 'n4', name: 'n4' };
  const drain = op(
    1,
    'node.drain',
    subject,
    {
      node: 'n4',
      restart: false,
      leave: false,
      vms: [
        { ...line, vm: b.vm, state: 'waiting', to: 'n6', text: 'waits for others' },
        { ...line, vm: a.vm, state: 'moving', to: 'n5', op: ids(2) },
        { ...line, vm: c.vm, state: 'moved', to: 'n7' },
      ],
    },
    { step: '1 of 3 VMs are away from n4, 1 moving, 1 wait', progress: 0.33 },
  );
  const vm = { kind: 'vm' as const, id: a.vm, name: a.name };
  const move = op(
    2,
    'vm.migrate',
    vm,
    { from: 'n4', to: 'n5', for: drain.id },
    { step: 'memory is copied', progress: 0.5 },
  );
  put(drain);
  put(move);
  const strip = page.getByRole('region', { name: 'Operations' });
  await strip.getByRole('button', { name: '1 running' }).click();
  const list = page.getByRole('dialog');
  await list.getByRole('button', { name: 'Parts: 1 of 3 done' }).click();
  const parts = list.locator('.parts').first();
  await parts.getByText(`${a.name}: to n5`).waitFor();
  t.match(
    (await parts.innerText()).replaceAll('\n', ' '),
    /running.*to n5.*waiting.*waits for others.*done.*to n7/,
  );
  await parts.getByRole('progressbar').waitFor();
  t.same(await faults('strip-tree'), []);
  await parts.getByRole('link', { name: a.name }).click();
  await page.waitForURL(new RegExp(`/ops/${move.id}$`));
  await content.getByText('memory is copied').waitFor();
  await content.getByRole('link', { name: 'node drain "n4"' }).click();
  await content.getByRole('heading', { name: 'What it consists of' }).waitFor();
  await page.keyboard.press('Escape');
  t.same(await faults('op'), []);
  const { items } = (await r.call('GET', `/api/v1/ops/${drain.id}/parts`)).body as { items: unknown[] };
  t.match(items, [
    { depth: 0, name: b.name, state: 'waiting', op: null },
    { depth: 0, name: a.name, state: 'running', op: move.id, progress: 0.5 },
    { depth: 0, name: c.name, state: 'done' },
  ]);
  const { out } = await l.run('op', 'show', drain.id);
  t.match(out, new RegExp(`Parts +${b.name}: waiting, to n6: waits for others`));
  t.match(out, new RegExp(`${a.name}: running 50 %, to n5`));
  put({ ...move, state: 'done', progress: 1 });
  put({ ...drain, state: 'failed', error: failure });
  await content.getByText('Code: in-use').waitFor();
  t.equal(await content.getByRole('button', { name: 'Cancel' }).count(), 0);
});

await t.test('the cluster has the one shape: name, state, actions, tabs that are addresses', async (t) => {
  await page.goto(l.url);
  const name = await content.getByRole('heading', { level: 1 }).innerText();
  for (const [tab, at] of [
    ['High availability', 'ha'],
    ['Balance', 'balance'],
    ['Classes', 'classes'],
    ['Operations', 'ops'],
    ['Access', 'tokens'],
  ] as const) {
    await content.getByRole('tab', { name: tab }).click();
    await page.waitForURL(`${l.url}/${at}`);
    await content.getByRole('tab', { name: tab, selected: true }).waitFor();
    t.equal(await content.getByRole('heading', { level: 1 }).innerText(), name);
    t.ok((await page.title()).startsWith(tab));
    t.ok(await content.getByRole('link', { name: 'New VM' }).isVisible());
  }
  await page.goto(`${l.url}/ops?show=failed`);
  await content.getByText('node drain "n4"').waitFor();
});

await t.test(
  'by the keyboard alone: past the menu, along the tabs, two VMs chosen and asked about',
  async (t) => {
    await page.goto(l.url);
    await content.getByRole('tab', { name: 'Overview' }).waitFor();
    await page.keyboard.press('Tab');
    t.equal(await page.evaluate('document.activeElement.textContent'), 'To the content');
    await page.keyboard.press('Enter');
    await content.getByRole('tab', { name: 'Overview' }).focus();
    await page.keyboard.press('ArrowRight');
    await page.waitForURL(/\/ha$/);
    await page.goto(`${l.url}/vms`);
    await page.getByText(`${vmCount} shown`).waitFor();
    await page.getByRole('checkbox', { name: 'Choose all shown' }).focus();
    for (const _ of [1, 2]) {
      // The box, then the name's link and the node's of each row.
      do await page.keyboard.press('Tab');
      while (
        (await page.evaluate<string>("document.activeElement.getAttribute('aria-label') ?? ''")).startsWith(
          'Choose ',
        ) === false
      );
      await page.keyboard.press('Space');
    }
    await page.getByText('2 chosen:').waitFor();
    await page
      .getByRole('region', { name: 'With the chosen VMs' })
      .getByRole('button', { name: 'Shut down' })
      .focus();
    await page.keyboard.press('Enter');
    const asks = page.getByRole('dialog', { name: 'Shut down 2 VMs?' });
    await asks.waitFor();
    await page.keyboard.press('Escape');
    await asks.waitFor({ state: 'detached' });
    // Who leaves a dialog is where they were.
    await page.getByRole('button', { name: 'Shut down' }).and(page.locator(':focus')).waitFor();
  },
);

await t.test('what is old is marked so, by day and by night', async (t) => {
  await page.goto(l.url);
  await page.getByText('live', { exact: true }).waitFor();
  await l.stop();
  stopped = true;
  await page.getByRole('alert').getByText('Connection lost: this is old').waitFor();
  t.same(await barriers(page), []);
  await page.emulateMedia({ colorScheme: 'dark' });
  t.same(await barriers(page), []);
  t.same(complaints, []);
});
