import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import t from 'tap';
import type { VappView } from '../../core/wire/rest.js';
import { Drills } from './drill.js';
import { waitFor } from './harness.js';

export interface ThreeTiers {
  /** Of the lab; other labs beside it have others. */
  readonly id: string;
  readonly net: string;
  readonly guestNet: string;
  /** `db`, `app` and `web` of the vApp "shop", with HA: on the networks `back`, isolated, and `front`; `password` is secret. */
  readonly members: string;
  /** Where the web tier answers. */
  readonly path: string;
  /** Whether an answer of that vApp has come through all tiers. */
  whole(answer: string, vapp: string): boolean;
  /** How long the tiers may take to answer. */
  readonly limitMs: number;
  /** Whether it is cloned, and packed, deleted and imported, too. */
  readonly copies: boolean;
  /** When the lab is there, and before the first guest. */
  prepare?(d: Drills): Promise<void>;
}

const documentOf = (members: string): string => `kind: VApp
name: shop
properties:
  greeting: { default: hello }
  password: { secret: true }
networks:
  back: { isolated: true, subnet: 10.9.0.0/24 }
  front: { network: lan }
members:
${members}
rules:
  - { kind: apart, must: false, members: [db, app, web] }
`;

/**
 * Three tiers of real guests from one file, on an isolated network over three nodes: a request goes through all of them,
 * also of a clone beside it; and does again after the node of one has lost its power, and after the whole was packed, deleted
 * and imported.
 */
export async function threeTiers(o: ThreeTiers): Promise<void> {
  const d = await Drills.up({ id: o.id, net: o.net, guestNet: o.guestNet, timing: 'lab' });
  const { c } = d;
  const dir = mkdtempSync(path.join(tmpdir(), 'flotilla-lab-vapp-'));
  t.teardown(async () => {
    await d.down();
    rmSync(dir, { recursive: true, force: true });
  });
  await o.prepare?.(d);
  writeFileSync(`${dir}/shop.yaml`, documentOf(o.members));
  writeFileSync(`${dir}/values.yaml`, 'password: tall-trees\n');

  const cli = (...args: string[]): Promise<{ code: number; text: string }> =>
    c.cli(dir, ...args, '--timeout', `${o.limitMs / 1000}s`);

  const shop = async (): Promise<VappView> => (await c.get<VappView>('vapps/shop')).body;
  const nodeOf = async (member: string): Promise<string> =>
    (await shop()).members.find((m) => m.name === member)?.node ?? '';

  /** What the web tier answers. */
  async function answer(vapp: string): Promise<string> {
    const web = (await c.vm(`${vapp}-web`)).addresses.find((a) => a.startsWith(`${o.guestNet}.`)) ?? '';
    const ask = `fetch('http://${web}${o.path}', { signal: AbortSignal.timeout(20000) }).then((r) => r.text()).then(console.log)`;
    const r = await d.lab.fabric(process.execPath, '-e', ask);
    return r.stdout.trim();
  }
  async function answers(vapp = 'shop'): Promise<void> {
    let last = '';
    await waitFor(
      'web answers through all tiers',
      async () => {
        last = await answer(vapp);
        return o.whole(last, vapp);
      },
      { limitMs: o.limitMs, everyMs: 1_000 },
    ).catch((e: unknown) => {
      throw new Error(`last: ${last}`, { cause: e });
    });
  }

  await t.test(
    'one file: three tiers on an isolated network over three nodes, started in their order',
    async (t) => {
      const { code, text } = await cli(
        'apply',
        '-f',
        `${dir}/shop.yaml`,
        '--values',
        `${dir}/values.yaml`,
        '--start',
      );
      if (!t.equal(code, 0, text)) {
        t.comment(await d.words().catch(() => ''));
        return;
      }
      const nodes = await Promise.all(['db', 'app', 'web'].map(nodeOf));
      t.equal(new Set(nodes).size, 3, `each on a node of its own: ${nodes.join()}`);
      await answers();
      t.match((await cli('apply', '-f', `${dir}/shop.yaml`)).text, /Nothing is different/);
      for (const node of d.nodes) {
        const reached = await d.lab.exec(node, 'ping', '-c', '1', '-W', '1', '10.9.0.10');
        t.not(reached.code, 0, `${node} itself is not on the network`);
      }
    },
  );

  if (o.copies)
    await t.test('cloned under another name, both answer', async (t) => {
      const { code, text } = await cli('vapp', 'clone', 'shop', 'twin', '--start');
      if (!t.equal(code, 0, text)) return;
      await answers('twin');
      await answers();
      t.match(await cli('vapp', 'force-stop', 'twin'), { code: 0 });
      t.match(await cli('vapp', 'delete', 'twin'), { code: 0 });
    });

  await t.test('the node of a tier loses its power: the whole answers again', async (t) => {
    for (const name of ['shop-db', 'shop-app', 'shop-web']) await d.untilProtected(name, o.limitMs);
    // Not the one with the controller that is asked.
    const members = (await shop()).members;
    const lost = members.find((m) => m.node !== 'n1');
    const node = lost?.node ?? '';
    await d.lab.kill(node);
    await waitFor('it is elsewhere', async () => (await nodeOf(lost?.name ?? '')) !== node, {
      limitMs: 120_000,
    });
    await answers();
    t.pass(`${lost?.name ?? ''} came back from ${node}`);
    await d.lab.boot(node);
  });

  if (o.copies)
    await t.test('packed as an OVA, deleted and imported, it answers again', async (t) => {
      const ova = `${dir}/shop.ova`;
      const before = (await shop()).members.map((m) => [m.name, m.vm]);
      t.match(await cli('vapp', 'stop', 'shop'), { code: 0 });
      t.match(await cli('export', 'shop', '--vapp', '-o', ova), { code: 0 });
      t.match(await cli('vapp', 'delete', 'shop'), { code: 0 });
      t.same((await c.get<{ items: unknown[] }>('vms')).body.items, []);
      const { code, text } = await cli(
        ...['import', ova, '--as-vapp', 'shop', '--properties', `${dir}/values.yaml`],
        ...['--pool', 'shared', '--start'],
      );
      if (!t.equal(code, 0, text)) return;
      await answers();
      const after = (await shop()).members.map((m) => [m.name, m.vm]);
      t.same(
        after.map(([name]) => name),
        before.map(([name]) => name),
      );
      t.notSame(after, before, 'they are new machines');
    });

  await t.test('stopped and deleted, nothing of it is left', async (t) => {
    t.match(await cli('vapp', 'stop', 'shop'), { code: 0 });
    t.match(await cli('vapp', 'delete', 'shop'), { code: 0 });
    t.equal((await c.get('vapps/shop')).status, 404);
    t.same((await c.get<{ items: unknown[] }>('vms')).body.items, []);
    t.same(
      (await c.get<{ items: { name: string }[] }>('networks')).body.items.map((n) => n.name),
      ['lan'],
    );
  });
}
