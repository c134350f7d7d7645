import t from 'tap';
import type { Op } from '../../core/domain/op.js';
import type { Vapp } from '../../core/domain/vapp.js';
import { ledger as kinds } from '../../core/wire/ledger-keys.js';
import { finishTemplate, namedOf, recordsOf, wholeVapp } from '../unit/controller/vapp-rig.js';
import { barriers, looks, openContext, sideScroll } from './browser.js';
import { complaintsOf, logInByToken, openStage } from './stage.js';

/** A vApp is cloned, a template deployed, and a vApp suspended, by a browser: looked at first, refused in place, then made. */

const { l, r, browser } = await openStage(t);
const vm = { memory: '128M', disks: [{ name: 'root', pool: 'shared', size: '1G' }] };
const shop = await wholeVapp(r, {
  document: {
    kind: 'VApp',
    name: 'shop',
    properties: {
      port: { type: 'integer', default: 80, label: 'Port' },
      password: { secret: true, label: 'Password of the shop' },
    },
    networks: { back: { isolated: true, subnet: '10.9.0.0/24' } },
    eulas: ['Be kind.'],
    members: {
      db: {
        vm: {
          ...vm,
          nics: [{ network: 'back' }],
          cloudInit: { userData: '#cloud-config\npassword: "@{password}"' },
        },
      },
      web: { start: { order: 1 }, vm },
    },
  },
  values: { password: 'hunter2-hunter2' },
  acceptEulas: true,
});
const made = await r.call('POST', '/api/v1/templates', { name: 'shop-1', vapp: 'shop' });
if (made.status !== 202) throw new Error(JSON.stringify(made.body));
await finishTemplate(r, 'shop-1');

const [wide] = looks;
const context = await openContext(browser, wide);
const page = await context.newPage();
page.setDefaultTimeout(120_000);
const complaints = complaintsOf(page);
await logInByToken(page, l);
const dialog = page.getByRole('dialog');
const vapp = (name: string): Vapp | undefined => namedOf<Vapp>(r, kinds.vapp.prefix, name);

await t.test('a vApp is cloned: what is made is shown first, and nothing is made before', async (t) => {
  await page.goto(`${l.url}/vapps/${shop.id}`);
  await page.getByRole('button', { name: 'Clone', exact: true }).click();
  await dialog.getByText('A vApp that begins as "shop" is now').waitFor();
  const see = dialog.getByRole('button', { name: 'See what is made' });
  t.ok(await see.isDisabled(), 'it has no name yet');
  await dialog.getByLabel('Name').fill('shop');
  await see.click();
  await dialog.getByRole('alert').getByText('Code: name-taken').waitFor();
  await dialog.getByLabel('Name').fill('shop-test');
  await dialog.getByLabel('Port').fill('many');
  await dialog.getByText('is no integer').waitFor();
  t.ok(await see.isDisabled(), 'a value that is not of its type is not sent');
  await dialog.getByLabel('Port').fill('9090');
  await dialog.getByLabel('Password of the shop').fill('another-secret');
  await see.click();
  await dialog.getByText('VM "shop-test-db" is made').waitFor();
  await dialog.getByText(/^web on n\d/).waitFor();
  t.equal(vapp('shop-test'), undefined, 'nothing was made');
  t.same(await barriers(page), []);
  t.equal(await sideScroll(page), 0);
  await dialog.getByLabel('Start it when it is made').check();
  await see.waitFor(); // what was looked at is not what is asked for any more
  await see.click();
  await dialog.getByRole('button', { name: 'Make it' }).click();
  await page.getByRole('heading', { name: 'shop-test' }).waitFor();
  t.equal(await dialog.count(), 0);
  const v = vapp('shop-test');
  t.equal(v?.properties.find((p) => p.name === 'port')?.value, 9090);
  const holders = r.memory.peekAll('/flotilla/').filter((e) => e.value.includes('another-secret'));
  t.same(
    holders.map((e) => e.key.split('/')[2]),
    ['vapp-secret'],
  );
});

await t.test(
  'a template is deployed: its licences come first, what is refused is said in place',
  async (t) => {
    await page.goto(`${l.url}/templates`);
    await page.getByRole('button', { name: 'Deploy', exact: true }).click();
    await dialog.getByText('A vApp of template "shop-1"').waitFor();
    await dialog.getByLabel('Name').fill('shop-north');
    const see = dialog.getByRole('button', { name: 'See what is made' });
    t.ok(await see.isDisabled(), 'its licence is not accepted');
    await dialog.getByText('Be kind.').waitFor();
    await dialog.getByLabel('I accept this licence').check();
    await see.click();
    await dialog
      .getByRole('alert')
      .getByText(/password/)
      .first()
      .waitFor();
    await dialog.getByLabel('Password of the shop').fill('north-secret');
    await dialog.getByLabel(/^Linked/).check();
    await see.click();
    await dialog.getByText('VM "shop-north-web" is made').waitFor();
    t.same(await barriers(page), []);
    await dialog.getByRole('button', { name: 'Make it' }).click();
    await page.getByRole('heading', { name: 'shop-north' }).waitFor();
    const v = vapp('shop-north');
    t.ok(
      v?.members.every((m) => m.from?.linked === true && m.from.keep),
      'of the template, linked',
    );
  },
);

await t.test('a vApp that runs is suspended after a question, and its button resumes it', async (t) => {
  for (const m of shop.members) await r.call('POST', `/api/v1/vms/${m.vm}/actions/start`);
  await page.goto(`${l.url}/vapps/${shop.id}`);
  const button = page.getByRole('button', { name: 'Suspend', exact: true });
  await button.click();
  await dialog.getByText('boots when it is resumed').waitFor();
  await dialog.getByRole('button', { name: 'Suspend', exact: true }).click();
  await page.getByText('vapp.suspend').first().waitFor();
  t.match(
    recordsOf<Op>(r, kinds.op.prefix).filter((o) => o.kind === 'vapp.suspend'),
    [{ subject: { id: shop.id }, args: { phase: 'suspend' } }],
  );
  t.same(complaints, []);
});
