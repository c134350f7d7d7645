import { mkdir, readFile } from 'node:fs/promises';
import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import path from 'node:path';
import { chromium, type Browser, type BrowserContext, type Page } from 'playwright-core';

const axePath = createRequire(import.meta.url).resolve('axe-core/axe.min.js');
const screenshots = path.resolve('build/screenshots');

/** What people look with: a desk and a telephone, by day and by night. */
export const looks = [
  { name: 'wide-light', width: 1280, height: 900, colorScheme: 'light' },
  { name: 'wide-dark', width: 1280, height: 900, colorScheme: 'dark' },
  { name: 'narrow-light', width: 360, height: 740, colorScheme: 'light' },
  { name: 'narrow-dark', width: 360, height: 740, colorScheme: 'dark' },
] as const;
export type Look = (typeof looks)[number];

/** Debian's chromium, with a fresh profile and without anything that calls home. */
export async function openBrowser(): Promise<Browser> {
  const executablePath = '/usr/bin/chromium';
  if (!existsSync(executablePath)) throw new Error('no browser: install the Debian package chromium');
  return chromium.launch({
    executablePath,
    headless: true,
    args: [
      '--no-sandbox',
      '--disable-gpu',
      '--disable-quic',
      '--no-first-run',
      '--disable-background-networking',
      '--disable-component-update',
      '--disable-sync',
      '--ignore-certificate-errors',
    ],
  });
}

export interface ContextOptions {
  /** False: as for somebody without JavaScript. axe needs it. */
  readonly javaScript?: boolean;
}

export async function openContext(
  browser: Browser,
  look: Look,
  o: ContextOptions = {},
): Promise<BrowserContext> {
  return browser.newContext({
    viewport: { width: look.width, height: look.height },
    colorScheme: look.colorScheme,
    // Half faded in, anything is hard to read.
    reducedMotion: 'reduce',
    ignoreHTTPSErrors: true,
    javaScriptEnabled: o.javaScript ?? true,
  });
}

/** The whole page as a picture under build/screenshots, for people to look at. */
export async function screenshot(page: Page, name: string): Promise<void> {
  await mkdir(screenshots, { recursive: true });
  await page.screenshot({ path: path.join(screenshots, `${name}.png`), fullPage: true });
}

/** Pixels by which the page is wider than the window: 0 means nobody scrolls sideways. */
export async function sideScroll(page: Page): Promise<number> {
  return page.evaluate<number>('document.documentElement.scrollWidth - document.documentElement.clientWidth');
}

interface AxeResult {
  readonly violations: readonly {
    readonly id: string;
    readonly impact: string | null;
    readonly help: string;
    readonly nodes: readonly { readonly html: string }[];
  }[];
}

/** Serious and critical barriers that axe finds, in words. */
export async function barriers(page: Page): Promise<readonly string[]> {
  // By the debugger's door: the page's own policy would rightly refuse a script of somebody else's.
  await page.evaluate(await readFile(axePath, 'utf8'));
  await page.evaluate(
    'Promise.allSettled(document.getAnimations().filter((a) => a.effect.getComputedTiming().endTime !== Infinity).map((a) => a.finished))',
  );
  const { violations } = await page.evaluate<AxeResult>('axe.run()');
  return violations
    .filter((v) => v.impact === 'serious' || v.impact === 'critical')
    .flatMap((v) => v.nodes.map((n) => `${v.id}: ${v.help}: ${n.html.slice(0, 200)}`));
}
