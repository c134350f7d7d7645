import { writeFile } from 'node:fs/promises';
import path from 'node:path';
import { gzipSync } from 'node:zlib';
import t from 'tap';
import { ledger as kinds } from '../../core/wire/ledger-keys.js';
import { manifestOf, tarOf } from '../unit/agent/ovf/make.js';
import { fixture } from '../unit/core/ovf/read.js';
import { barriers, looks, openContext, screenshot, sideScroll } from './browser.js';
import { complaintsOf, logInByToken, openStage } from './stage.js';

/** The import wizard: a package chosen in a browser becomes a vApp, step by step. */

const { l, r, browser } = await openStage(t);
const { dir } = l;
r.agents.deploys = true;
for (const [i, name] of ['front', 'inner'].entries())
  await r.call('POST', '/api/v1/networks', {
    name,
    bridge: `br${i}`,
    subnet: `10.${i}.0.0/24`,
    range: [`10.${i}.0.10`, `10.${i}.0.90`],
  });

const base = Buffer.alloc(300_000, 'base');
const data = Buffer.alloc(200_000, 'data');
const large = [Buffer.alloc(1000, 'a'), Buffer.alloc(1000, 'b'), Buffer.alloc(500, 'c')];
const files: Record<string, string | Buffer> = {
  'shop.ovf': fixture('three-tier.ovf'),
  'base.vmdk': base,
  'data disk.img.gz': gzipSync(data),
  'large.vmdk.000000000': large[0] ?? '',
  'large.vmdk.000000001': large[1] ?? '',
  'large.vmdk.000000002': large[2] ?? '',
  'texts-de.xml': fixture('texts-de.xml'),
  'tools.iso': 'an iso',
};
const ova = path.join(dir, 'shop.ova');
await writeFile(
  ova,
  tarOf([
    { name: 'shop.ovf', data: files['shop.ovf'] ?? '' },
    { name: 'shop.mf', data: manifestOf(files) },
    ...Object.entries(files)
      .slice(1)
      .map(([name, bytes]) => ({ name, data: bytes })),
  ]),
);

await t.test('a package is chosen, looked into, mapped, filled in, accepted and made', async (t) => {
  const [wide] = looks;
  const context = await openContext(browser, wide);
  t.teardown(() => context.close());
  const page = await context.newPage();
  page.setDefaultTimeout(120_000);
  const complaints = complaintsOf(page);
  await logInByToken(page, l);
  await page.goto(`${l.url}/vapps`);
  const content = page.locator('#content');
  await content.getByRole('link', { name: 'Import a package' }).click();
  const next = () => content.getByRole('button', { name: 'Next' }).click();
  const looksWell = async (name: string): Promise<void> => {
    t.equal(await sideScroll(page), 0, name);
    t.same(await barriers(page), [], name);
    await screenshot(page, `controller-import-${name}`);
  };

  const broken = path.join(dir, 'broken.ova');
  await writeFile(broken, 'no archive');
  await page.locator('input[type=file]').setInputFiles(broken);
  await content.getByText('ends within a header').waitFor();
  await page.locator('input[type=file]').setInputFiles(ova);
  await content.getByText('Shop (OVA, OVF 1.1.0)').waitFor();
  await looksWell('within');
  await next();

  await content.getByText('Network "back" of the package is').waitFor();
  await next();
  await content.getByText('say which network "back" is').waitFor();
  await content.getByLabel('Network "back" of the package is').click();
  await page.getByRole('option', { name: 'inner' }).click();
  await looksWell('place');
  await next();

  const port = content.getByRole('textbox', { name: 'org.example.db.port.main' });
  await port.waitFor();
  await port.fill('not a number');
  await next();
  await content.getByText('got a value that is not of its type').waitFor();
  await port.fill('5433');
  await content.getByLabel(/org.example.shop.admin/).fill('hush-hush');
  await looksWell('properties');
  await next();

  await content.getByText('You may use it.').waitFor();
  await next();
  await content.getByText('there are 1 licences to accept').waitFor();
  await content.getByLabel('I accept this licence').check();
  await next();

  await content.getByRole('button', { name: 'Import', exact: true }).waitFor();
  await looksWell('deploy');
  await content.getByRole('button', { name: 'Import', exact: true }).click();
  await content.getByRole('heading', { name: 'shop' }).waitFor();
  const shop = (await r.call('GET', '/api/v1/vapps/shop')).body['members'] as { vmName: string }[];
  t.strictSame(shop.map((m) => m.vmName).sort(), ['Database', 'application', 'web']);
  t.strictSame(
    [...r.uploads.files.values()].map((f) => f.toString('latin1')).sort(),
    [base, data, Buffer.concat(large), Buffer.from('an iso')].map((f) => f.toString('latin1')).sort(),
    'unpacked, joined and whole',
  );
  const [record] = r.memory.peekAll(kinds.vapp.prefix);
  t.match(record?.value, /hush-hush/, 'told to its guests');
  t.match(record?.value, /5433/);
  t.same(complaints, []);
});
