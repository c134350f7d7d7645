import t from 'tap';
import { allLockstep, armed, made, paired, vmOf } from '../unit/controller/ha-rig.js';
import { person } from '../unit/controller/people.js';
import { GiB } from '../unit/controller/rig.js';
import { barriers, looks, openContext, screenshot, sideScroll } from './browser.js';
import { logInAs, openStage } from './stage.js';

/** Protection of a VM on its page: what each level loses and costs, what is in the way, and both machines of a pair. */

const { l, browser } = await openStage(t);
allLockstep(l.r);
const disks = [{ name: 'root', sizeBytes: GiB, pool: 'local', format: 'raw' }];
const vm = await made(l.r, { name: 'web', disks, node: 'n1', cpus: 4, power: 'running' });
await armed(l.r, 'web', 'n3', { state: 'off', text: '', standby: null });
await person(l.r, 'olga', 'operator');
await person(l.r, 'vera', 'viewer');

async function open(t: { teardown(end: () => Promise<void>): void }, name: string) {
  const context = await openContext(browser, looks[0]);
  t.teardown(() => context.close());
  const page = await context.newPage();
  await logInAs(page, l, name);
  await page.goto(`${l.url}/vms/${vm.id}/protection`);
  const level = (title: string) => page.getByRole('region', { name: `Protection ${title}` });
  return { page, level };
}

await t.test('blockers before, the choice, and how the pair stands', async (t) => {
  const { page, level } = await open(t, 'olga');
  const lockstep = level('Lockstep (FT)');
  await lockstep.getByText('experimental').waitFor();
  await lockstep.getByText(/it has 4 vCPUs; more than 2 were not tried/).waitFor();
  await lockstep.getByText(/Memory and CPUs twice/).waitFor();
  await level('Restart (HA)')
    .getByText(/open connections/)
    .waitFor();
  await level('None').getByText('asked for').waitFor();
  const choose = lockstep.getByRole('button', { name: 'Lockstep' });
  t.ok(await choose.isDisabled(), 'what is in the way is in the way of the button');
  t.same(await barriers(page), []);

  t.equal((await l.run('vm', 'edit', 'web', '--cpus', '2')).code, 0);
  await lockstep.getByText(/Second node/).waitFor();
  await choose.click();
  const dialog = page.getByRole('dialog');
  await dialog.getByText(/It comes with its next start/).waitFor();
  await dialog.getByRole('button', { name: 'Lockstep' }).click();
  await lockstep.getByText('asked for').waitFor();
  t.equal((await vmOf(l.r, 'web')).level, 'lockstep');
  await page.getByText('Waits for a restart: protection becomes lockstep').waitFor();

  await paired(l.r, 'web', null);
  await page
    .getByRole('alert')
    .getByText(/runs alone on n1/)
    .first()
    .waitFor();
  await paired(l.r, 'web', 'n2');
  await page.getByRole('link', { name: 'n2' }).first().waitFor();
  await page.getByText('Not protected now').waitFor({ state: 'detached' });
  await screenshot(page, 'controller-protection-lockstep');
  t.equal(await sideScroll(page), 0);
  t.same(await barriers(page), []);
  await page.emulateMedia({ colorScheme: 'dark' });
  t.same(await barriers(page), []);
  await page.goto(`${l.url}/nodes/n1/if-it-fails`);
  await page.getByText(/1 would go on with their twins/).waitFor();
});

await t.test('who only looks changes nothing', async (t) => {
  const { level } = await open(t, 'vera');
  await level('None').waitFor();
  t.equal(await level('None').getByRole('button').count(), 0);
});
