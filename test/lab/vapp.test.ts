import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import t from 'tap';
import type { VappView } from '../../core/wire/rest.js';
import { Drills } from './drill.js';
import { waitFor } from './harness.js';

/**
 * Three tiers of real guests from one file, on an isolated network over three nodes: a request goes through all of them,
 * also of a clone beside it; and does again after the node of one has lost its power, and after the whole was packed, deleted and imported.
 */

const d = await Drills.up({ id: 'flvapp', net: '10.66.0', guestNet: '10.66.100', timing: 'lab' });
const { c } = d;
const dir = mkdtempSync(path.join(tmpdir(), 'flotilla-lab-vapp-'));
t.teardown(async () => {
  await d.down();
  rmSync(dir, { recursive: true, force: true });
});

const vm = (nics: string): string => `
      memory: 96M
      disks: [{ name: root, pool: shared, image: tiny, mode: linked }]
      nics: [${nics}]
      ha: { enabled: true, restartsPerHourMax: 100 }`;
/** Answers what it says, and what the next tier does. */
const asks = (tier: string, next: string): string => `
      cloudInit:
        userData: |
          #!/bin/sh
          mkdir -p /www/cgi-bin
          cat >/www/cgi-bin/ask <<'END'
          #!/bin/sh
          printf 'Content-Type: text/plain\\r\\n\\r\\n'
          echo "${tier} heard: $(wget -q -T 5 -O - http://${next})"
          END
          chmod +x /www/cgi-bin/ask
          httpd -p 80 -h /www`;
const document = `kind: VApp
name: shop
properties:
  greeting: { default: hello }
  password: { secret: true }
networks:
  back: { isolated: true, subnet: 10.9.0.0/24 }
  front: { network: lan }
members:
  db:
    start: { order: 1, wait: tcp, port: 80 }
    vm:${vm('{ network: back }')}
      cloudInit:
        userData: |
          #!/bin/sh
          mkdir -p /www
          echo "@{greeting} with @{password}" >/www/data
          httpd -p 80 -h /www
  app:
    start: { order: 2, wait: http, port: 80, path: /cgi-bin/ask }
    vm:${vm('{ network: back }')}${asks('app', '@{db.address}/data')}
  web:
    start: { order: 3 }
    vm:${vm('{ network: front }, { network: back }')}${asks('web', '@{app.address}/cgi-bin/ask')}
rules:
  - { kind: apart, must: false, members: [db, app, web] }
`;
writeFileSync(`${dir}/shop.yaml`, document);
writeFileSync(`${dir}/values.yaml`, 'password: tall-trees\n');

const cli = (...args: string[]): Promise<{ code: number; text: string }> => c.cli(dir, ...args);

const shop = async (): Promise<VappView> => (await c.get<VappView>('vapps/shop')).body;
const nodeOf = async (member: string): Promise<string> =>
  (await shop()).members.find((m) => m.name === member)?.node ?? '';

async function answer(vapp: string): Promise<string> {
  const web = (await c.vm(`${vapp}-web`)).addresses.find((a) => a.startsWith('10.66.100.')) ?? '';
  const ask = `fetch('http://${web}/cgi-bin/ask', { signal: AbortSignal.timeout(10000) }).then((r) => r.text()).then(console.log)`;
  const r = await d.lab.fabric(process.execPath, '-e', ask);
  return r.stdout.trim();
}
const whole = 'web heard: app heard: hello with tall-trees';
async function answers(vapp = 'shop'): Promise<void> {
  let last = '';
  await waitFor(
    'web answers through all tiers',
    async () => {
      last = await answer(vapp);
      return last === whole;
    },
    { limitMs: 180_000, everyMs: 1_000 },
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

await t.test('cloned under another name, both answer', async (t) => {
  const { code, text } = await cli('vapp', 'clone', 'shop', 'twin', '--start');
  if (!t.equal(code, 0, text)) return;
  await answers('twin');
  await answers();
  t.match(await cli('vapp', 'force-stop', 'twin'), { code: 0 });
  t.match(await cli('vapp', 'delete', 'twin'), { code: 0 });
});

await t.test('the node of a tier loses its power: the whole answers again', async (t) => {
  for (const name of ['shop-db', 'shop-app', 'shop-web']) await d.untilProtected(name);
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
