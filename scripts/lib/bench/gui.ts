import path from 'node:path';
import { pathToFileURL } from 'node:url';
import { gzipSync } from 'node:zlib';
import { readFile, readdir } from 'node:fs/promises';
import type { Page } from 'playwright-core';
import { readWebFiles } from '../../../controller/web-files.js';
import { looks, openBrowser, openContext } from '../../../test/web/browser.js';
import { lab } from '../../../test/unit/controller/cli-rig.js';
import { rig } from '../../../test/unit/controller/rig.js';
import { inject } from './api-list.js';
import { median, percentile, report, say, type Target } from './report.js';

const vmCount = 2_000;
const nodeCount = 16;
/** A figure that takes longer than this has failed, ms. */
const limitMs = 60_000;

/**
 * The page in Chromium against the controller's own app, view and HTTPS server; ledger and radio in memory have 16 nodes
 * and 2,000 VMs. Times are of the browser's own clock, but for the change: from what a node says to what is drawn.
 */
export async function gui(n: number): Promise<void> {
  const web = await readWebFiles(pathToFileURL(path.resolve('build/dist/flotilla-web.mjs')));
  const nodes = Array.from({ length: nodeCount }, (_, i) => `n${i + 1}`);
  const l = await lab(() => rig(nodes, web));
  const browser = await openBrowser();
  try {
    const lines = inject(l.r, vmCount);
    await l.r.view.ledger.refresh();
    const [first] = lines;
    if (first === undefined) throw new Error('there is no VM');
    const context = await openContext(browser, looks[0]);
    const page = await context.newPage();
    await page.goto(l.url);
    await page.getByLabel('API token').fill(l.r.token);
    await page.getByRole('button', { name: 'Log in' }).click();
    await page.getByRole('status').first().waitFor({ timeout: limitMs });
    say(`gui: ${n} of each`);

    const paints: number[] = [];
    const lists: number[] = [];
    for (let i = 0; i < n; i++) {
      await page.goto(`${l.url}/vms`);
      await page.getByText(`${vmCount} in all`).waitFor({ timeout: limitMs });
      lists.push(await page.evaluate<number>('performance.now()'));
      paints.push(
        await page.evaluate<number>(
          "performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? NaN",
        ),
      );
    }
    print('gui-first-paint', paints, { atMost: 1_500 });
    print('gui-list', lists, { atMost: 5_000 });

    const filters: number[] = [];
    for (let i = 0; i < n; i++) filters.push(await filtered(page, `vm-${String(i).padStart(4, '0')}`));
    print('gui-filter', filters, { atMost: 100 });

    const changes: number[] = [];
    await page.goto(`${l.url}/vms/${first.vm}`);
    await page
      .locator('#content')
      .getByText('running', { exact: true })
      .first()
      .waitFor({ timeout: limitMs });
    for (let i = 0; i < n; i++) {
      const phase = i % 2 === 0 ? 'paused' : 'running';
      const began = performance.now();
      l.r.radio.nodes.get(first.node)?.vms.set(first.vm, { ...first, phase, atMs: Date.now() });
      l.r.radio.news();
      await page.locator('#content').getByText(phase, { exact: true }).first().waitFor({ timeout: limitMs });
      changes.push(performance.now() - began);
    }
    print('gui-change', changes, { atMost: 1_000 });
    await bundle();
  } finally {
    await browser.close();
    await l.stop();
  }
}

/** Types into the filter and waits until the count of what is shown has been drawn. @returns ms, by the page's clock */
async function filtered(page: Page, name: string): Promise<number> {
  const field = page.getByLabel('Name, address or MAC');
  await field.fill('');
  await page.getByText(`${vmCount} shown`).waitFor({ timeout: limitMs });
  await page.evaluate('globalThis.began = performance.now(), 0');
  await field.fill(name);
  await page.getByText('1 shown').waitFor({ timeout: limitMs });
  return page.evaluate<number>('performance.now() - globalThis.began');
}

/** What the first screen loads, compressed as it is sent. */
async function bundle(): Promise<void> {
  const html = await readFile('build/web/index.html', 'utf8');
  const names = [...html.matchAll(/(?:src|href)="\/(assets\/[^"]+)"/g)].map((m) => m[1] ?? '');
  let bytes = gzipSync(html, { level: 9 }).length;
  for (const name of new Set(names))
    bytes += gzipSync(await readFile(path.join('build/web', name)), { level: 9 }).length;
  const all = await readdir('build/web/assets');
  report({
    figure: 'gui-bundle',
    value: bytes / 1000,
    unit: 'kB compressed',
    target: { atMost: 500 },
    n: 1,
    compared: { files: names.length, filesInAll: all.length },
  });
}

function print(figure: string, ms: readonly number[], target: Target): void {
  report({
    figure,
    value: percentile(ms, 0.95),
    unit: 'ms p95',
    target,
    n: ms.length,
    median: median(ms),
    compared: { vms: vmCount, nodes: nodeCount },
  });
}
