import path from 'node:path';
import { pathToFileURL } from 'node:url';
import type { Browser, Page } from 'playwright-core';
import { readWebFiles } from '../../controller/web-files.js';
import { lab } from '../unit/controller/cli-rig.js';
import { haRig } from '../unit/controller/ha-rig.js';
import { password } from '../unit/controller/people.js';
import type { Rig } from '../unit/controller/rig.js';
import { openBrowser } from './browser.js';

/** The page as it was built. */
export const builtPage = () => readWebFiles(pathToFileURL(path.resolve('build/dist/flotilla-web.mjs')));

type Lab = Awaited<ReturnType<typeof lab>>;

/** The page at a real controller on a ledger in memory, whose agents end what is asked, and a browser: until the test ends. */
export async function openStage(t: {
  teardown(end: () => Promise<void>): void;
}): Promise<{ readonly l: Lab; readonly r: Rig; readonly browser: Browser }> {
  const web = await builtPage();
  const l = await lab(() => haRig(web));
  const browser = await openBrowser();
  t.teardown(async () => {
    await browser.close();
    await l.stop();
  });
  return { l, r: l.r, browser };
}

type At = Pick<Lab, 'url' | 'r'>;

/** Logs in by the token of the cluster, and waits for the page. */
export async function logInByToken(page: Page, l: At): Promise<void> {
  await page.goto(l.url);
  await page.getByLabel('API token').fill(l.r.token);
  await page.getByRole('button', { name: 'Log in' }).click();
  await page.getByRole('status').first().waitFor();
}

/** Logs in as somebody, and waits for the page that names them. */
export async function logInAs(page: Page, l: At, name: string, code?: string): Promise<void> {
  await page.goto(l.url);
  await page.getByLabel('Name').fill(name);
  await page.getByLabel('Password').fill(password(name));
  if (code !== undefined) await page.getByLabel('Code').fill(code);
  await page.getByRole('button', { name: 'Log in' }).click();
  await page.getByRole('link', { name, exact: true }).waitFor();
}

/** What the page's policy and scripts complain of from now on, but for answers that refuse. */
export function complaintsOf(page: Page): string[] {
  const complaints: string[] = [];
  page.on('console', (m) => {
    if (m.type() === 'error' && !m.text().includes('status of 4')) complaints.push(m.text());
  });
  page.on('pageerror', (e) => complaints.push(e.message));
  return complaints;
}
