import t from 'tap';
import { certificateSha256 } from '../../agent/pki/bundle.js';
import type { Op } from '../../core/domain/op.js';
import { ledger as kinds, writeRecord } from '../../core/wire/ledger-keys.js';
import type { CaView } from '../../core/wire/rest.js';
import { waitFor } from '../lab/harness.js';
import { person } from '../unit/controller/people.js';
import { barriers, looks, openContext } from './browser.js';
import { logInAs, openStage } from './stage.js';

/** The CA in the page: replaced, waited for, gone on with without a node that is off, taken back. */
const { l, r, browser } = await openStage(t);
const [wide] = looks;
const caNow = async (): Promise<CaView> => {
  await r.view.ledger.refresh();
  return (await r.call('GET', '/api/v1/ca')).body;
};
const opNow = (id: string): Op => JSON.parse(r.memory.peek(kinds.op.key(id))?.value ?? 'null') as Op;

await t.test('an admin replaces the CA and takes it back; the page says whom it waits for', async (t) => {
  await person(r, 'anna', 'admin');
  const context = await openContext(browser, wide);
  t.teardown(() => context.close());
  const page = await context.newPage();
  await logInAs(page, l, 'anna');
  await page.goto(`${l.url}/tokens`);
  const content = page.locator('#content');
  const { ca } = await caNow();
  await content.getByText(ca.sha256).waitFor();

  await content.getByRole('button', { name: 'Replace the CA…' }).click();
  const dialog = page.getByRole('dialog');
  t.same(await barriers(page), []);
  await dialog.getByRole('button', { name: 'Leave it' }).click();
  await dialog.waitFor({ state: 'detached' });
  t.equal((await caNow()).op, null, 'nothing happens before somebody said yes');
  await content.getByRole('button', { name: 'Replace the CA…' }).click();
  await dialog.getByRole('button', { name: 'Replace', exact: true }).click();
  await content.getByRole('button', { name: 'Take the new CA back…' }).waitFor();
  const op = (await caNow()).op;
  if (op === null) return void t.fail('there is no operation');

  // All but one that does not vote say that they are able to.
  const nodes = [...r.view.ledger.tables.node.values()].map((k) => k.value);
  const off = 'n3';
  for (const n of nodes)
    r.memory.poke(kinds.node.key(n.id), writeRecord(kinds.node, { ...n, voter: n.id !== off }));
  const sha256 = certificateSha256(ca.pem);
  for (const n of nodes)
    if (n.id !== off)
      r.memory.poke(
        kinds.trust.key(n.id),
        writeRecord(kinds.trust, { trusts: [sha256], issuer: sha256, keys: [sha256] }),
      );
  await r.view.ledger.refresh();
  r.view.fold();
  await page.reload();
  await content.getByRole('listitem').filter({ hasText: off }).waitFor();
  t.equal(await content.getByRole('progressbar', { name: 'How far the CA is replaced' }).count(), 1);
  t.same(await barriers(page), []);
  await content.getByRole('button', { name: 'Go on without…' }).click();
  await dialog.getByText(off).waitFor();
  await dialog.getByRole('button', { name: 'Go on', exact: true }).click();
  await waitFor('it goes on without it', () => String(opNow(op.id).args['without']) !== '');
  t.same(opNow(op.id).args['without'], [off]);

  await content.getByRole('button', { name: 'Take the new CA back…' }).click();
  await dialog.getByRole('button', { name: 'Take back', exact: true }).click();
  await waitFor('it is asked to end', () => opNow(op.id).cancelAsked);
  t.equal(opNow(op.id).cancelAsked, true);
});
