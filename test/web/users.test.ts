import type { Page } from 'playwright-core';
import t from 'tap';
import { totpAt } from '../../agent/pki/totp.js';
import { made } from '../unit/controller/ha-rig.js';
import { password, person } from '../unit/controller/people.js';
import { GiB } from '../unit/controller/rig.js';
import { barriers, looks, openContext, screenshot } from './browser.js';
import { logInAs, openStage } from './stage.js';

/** People in the page: who sees what, users, the second factor. */
const { l, r, browser } = await openStage(t);
const [wide] = looks;
const db = await made(r, {
  name: 'db',
  node: 'n1',
  disks: [{ name: 'root', sizeBytes: GiB, pool: 'shared' }],
});
await person(r, 'vera', 'viewer');
await person(r, 'anna', 'admin');
const content = (page: Page) => page.locator('#content');

/** Logs in by name and password. */
async function openAs(
  t: { teardown(end: () => Promise<void>): void },
  name: string,
  code = '',
): Promise<Page> {
  const context = await openContext(browser, wide);
  t.teardown(() => context.close());
  const page = await context.newPage();
  await logInAs(page, l, name, code);
  return page;
}

await t.test('a viewer sees no button that would be refused; an admin makes users', async (t) => {
  const vera = await openAs(t, 'vera');
  await vera.goto(`${l.url}/vms/${db.id}`);
  await content(vera).getByText('Guest agent').waitFor();
  t.equal(
    await content(vera)
      .getByRole('button', { name: /Shut down|Delete|Migrate/ })
      .count(),
    0,
  );
  t.equal(
    await content(vera)
      .getByRole('tab', { name: /console|Screen|Settings/ })
      .count(),
    0,
  );
  t.equal(await vera.getByRole('link', { name: 'Users' }).count(), 0);
  const anna = await openAs(t, 'anna');
  await anna.goto(`${l.url}/users`);
  await anna.getByRole('button', { name: 'New user' }).click();
  await anna.getByLabel(/^Name(?! at)/).fill('otto');
  await anna.getByRole('combobox', { name: 'Operator of all VMs with these tags' }).fill('team-a');
  await anna.keyboard.press('Enter');
  await anna.getByLabel('Role in the whole cluster').selectOption('operator');
  await anna.getByLabel('Password').fill(password('otto'));
  t.same(await barriers(anna), []);
  await anna.getByRole('button', { name: 'Make it' }).click();
  await content(anna).getByText('otto').waitFor();
  await content(anna).getByText('VMs with team-a').waitFor();
  const otto = await openAs(t, 'otto');
  await otto.goto(`${l.url}/vms/${db.id}`);
  await content(otto).getByRole('button', { name: 'Delete' }).waitFor();
});

await t.test('a second factor is set up in the page, and asked for', async (t) => {
  const vera = await openAs(t, 'vera');
  await vera.goto(`${l.url}/me`);
  await vera.getByRole('button', { name: 'Set it up' }).click();
  const secret = (await vera.locator('#content pre').innerText()).trim();
  await vera.getByLabel('Code').fill(totpAt(secret, Math.floor(Date.now() / 30_000)));
  await vera.locator('form', { hasText: 'authenticator' }).getByLabel('Password').fill(password('vera'));
  t.same(await barriers(vera), []);
  await screenshot(vera, 'controller-second-factor');
  await vera.getByRole('button', { name: 'Turn it on' }).click();
  await vera.getByRole('button', { name: 'Turn it off' }).waitFor();
  await openAs(t, 'vera', totpAt(secret, Math.floor(Date.now() / 30_000) + 1));
  t.pass();
});
