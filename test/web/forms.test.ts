import t from 'tap';
import { person } from '../unit/controller/people.js';
import { looks, openContext } from './browser.js';
import { logInAs, openStage } from './stage.js';

/** Forms behind a button: what is asked for is made and the form closes; what is refused is said in it. */

const { l, browser } = await openStage(t);
await person(l.r, 'anna', 'admin');
const context = await openContext(browser, looks[0]);
const page = await context.newPage();
await logInAs(page, l, 'anna');
const dialog = page.getByRole('dialog');
const open = async (at: string, button: string): Promise<void> => {
  await page.goto(`${l.url}/${at}`);
  await page.getByRole('button', { name: button, exact: true }).click();
};

await t.test('a network', async (t) => {
  await open('networks', 'New network');
  await dialog.getByRole('textbox', { name: 'Name', exact: true }).fill('dmz');
  await dialog.getByRole('textbox', { name: /^Bridge/ }).fill('br7');
  await dialog.getByRole('button', { name: 'Create' }).click();
  await page.waitForURL(/\/networks\/[0-9a-f-]{36}/);
  t.equal(await dialog.count(), 0);
  t.match(await l.run('network', 'list'), { out: /dmz/ });
  await open('networks', 'New network');
  await dialog.getByRole('textbox', { name: 'Name', exact: true }).fill('dmz');
  await dialog.getByRole('textbox', { name: /^Bridge/ }).fill('br8');
  await dialog.getByRole('button', { name: 'Create' }).click();
  await dialog.getByRole('alert').getByText('Code: name-taken').waitFor();
});

await t.test('a pool', async (t) => {
  await open('pools', 'New pool');
  await dialog.getByRole('textbox', { name: 'Name', exact: true }).fill('big');
  await dialog.getByLabel(/^Directory/).fill('/srv/big');
  await dialog.getByRole('button', { name: 'Create' }).click();
  await page.waitForURL(/\/pools\/[0-9a-f-]{36}/);
  t.match(await l.run('pool', 'list'), { out: /big/ });
});

await t.test('a rule', async (t) => {
  await open('balance', 'New rule');
  await dialog.getByRole('textbox', { name: 'Name', exact: true }).fill('none');
  await dialog.getByRole('button', { name: 'Create' }).click();
  await dialog.getByRole('alert').waitFor();
  t.equal(await dialog.count(), 1, 'a rule without VMs is refused, and the form stays');
});

await t.test('an image', async (t) => {
  await open('images', 'Fetch an image');
  await dialog.getByRole('textbox', { name: 'Name', exact: true }).fill('base');
  await dialog.getByLabel(/^Address/).fill('https://example.org/base.qcow2');
  await dialog.getByRole('button', { name: 'Fetch', exact: true }).click();
  await dialog.waitFor({ state: 'detached' });
  t.match(await l.run('image', 'list'), { out: /base/ });
});
