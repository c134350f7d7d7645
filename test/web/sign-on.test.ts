import type { Page } from 'playwright-core';
import t from 'tap';
import { FakeProvider } from '../unit/controller/fake-provider.js';
import { barriers, looks, openContext, screenshot, sideScroll } from './browser.js';
import { openStage } from './stage.js';

/** A provider of identities is set up in the page, and somebody comes by it: what cookies do on the way only a browser shows. */
const { l, browser } = await openStage(t);
const p = await FakeProvider.start();
t.teardown(() => p.stop());

async function fresh(look: (typeof looks)[number] = looks[0]): Promise<Page> {
  const context = await openContext(browser, look);
  t.teardown(() => context.close());
  const page = await context.newPage();
  page.setDefaultTimeout(120_000);
  return page;
}

await t.test('set up by an admin', async (t) => {
  const page = await fresh();
  await page.goto(l.url);
  await page.getByLabel('API token').fill(l.r.token);
  await page.getByRole('button', { name: 'Log in' }).click();
  await page.getByRole('link', { name: 'Sign-on' }).click();
  await page.getByText(`${l.url}/login/provider/callback`).waitFor();
  await page.getByLabel('Issuer').fill(p.issuer);
  await page.getByLabel('Name', { exact: true }).fill('Example ID');
  await page.getByRole('textbox', { name: 'Client', exact: true }).fill(p.clientId);
  await page.getByLabel('Secret of the client').fill(p.clientSecret);
  await page.getByLabel('CA of its certificate, PEM').fill(p.ca);
  await page.getByRole('button', { name: 'A value gives a role' }).click();
  await page.getByRole('textbox', { name: 'Value 1', exact: true }).fill('staff');
  await page.getByRole('combobox', { name: 'Role of value 1' }).selectOption('operator');
  await page.getByLabel(/^Make users/).check();
  await page.getByRole('button', { name: 'Save' }).click();
  await page.getByRole('button', { name: 'Ask the provider' }).click();
  await page.getByText('It answers as it should').waitFor();
  for (const look of [looks[0], looks[3]]) {
    await page.setViewportSize({ width: look.width, height: look.height });
    await page.emulateMedia({ colorScheme: look.colorScheme });
    t.equal(await sideScroll(page), 0);
    t.same(await barriers(page), []);
    await screenshot(page, `controller-sign-on-${look.name}`);
  }
});

await t.test('somebody comes by it, works, and leaves', async (t) => {
  const page = await fresh(looks[2]);
  await page.goto(`${l.url}/vms`);
  const button = page.getByRole('link', { name: 'Log in with Example ID' });
  await button.waitFor();
  t.same(await barriers(page), []);
  t.equal(await sideScroll(page), 0);
  await screenshot(page, 'controller-login-narrow-light');
  await button.click();
  await page.getByRole('heading', { level: 1 }).waitFor();
  await page.waitForURL(`${l.url}/`);
  const me = await page.evaluate<{ name: string; role: string }>("fetch('/api/v1/me').then((r) => r.json())");
  t.match(me, { name: 'vera', role: 'operator' });
  const kept = await page.context().cookies();
  t.match(
    kept.map((c) => [c.name, c.sameSite, c.httpOnly, c.secure]),
    [['__Host-flotilla', 'Strict', true, true]],
  );
  await page.goto(`${l.url}/me`);
  await page.getByText('You come by a provider of identities').waitFor();
  await page.getByRole('button', { name: 'Log out' }).click();
  await page.getByRole('link', { name: 'Log out of Example ID, too' }).waitFor();
  t.same(await barriers(page), []);
});

await t.test('a provider that is gone: the form says so, and is there', async (t) => {
  const page = await fresh(looks[1]);
  await p.stop();
  await page.goto(`${l.url}/login`);
  await page.getByRole('link', { name: 'Log in with Example ID' }).click();
  t.match(await page.getByRole('alert').innerText(), /Users with a password log in as before/);
  t.ok(await page.getByLabel('Password').isVisible());
  t.same(await barriers(page), []);
});
