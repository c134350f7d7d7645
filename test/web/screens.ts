import path from 'node:path';
import { pathToFileURL } from 'node:url';
import { mkdir } from 'node:fs/promises';
import type { Page } from 'playwright-core';
import { historyOf, type HistoryPoint } from '../../core/domain/history.js';
import type { NodeDrive } from '../../core/domain/node.js';
import { readWebFiles } from '../../controller/web-files.js';
import { lab } from '../unit/controller/cli-rig.js';
import { armed, haRig, made } from '../unit/controller/ha-rig.js';
import { person } from '../unit/controller/people.js';
import { GiB } from '../unit/controller/rig.js';
import { looks, openBrowser, openContext } from './browser.js';

/**
 * Makes the pictures of the controller's page that the documents show, by day and by night, of a small company's cluster:
 * `node build/js/test/web/screens.js [NAME...]`. Those of consoles and of troubles are the tests'.
 */
const into = path.resolve('docs/screens');
const only = process.argv.slice(2);
/** A loaded machine draws slowly, ms. */
const limitMs = 120_000;

const web = await readWebFiles(pathToFileURL(path.resolve('build/dist/flotilla-web.mjs')));
const l = await lab(() => haRig(web));
const { r } = l;
const post = async (at: string, body: object): Promise<{ id: string }> => {
  const a = await r.call('POST', `/api/v1${at}`, body);
  if (a.status >= 300) throw new Error(`${at}: ${JSON.stringify(a.body)}`);
  return a.body;
};

const lan = await post('/networks', {
  name: 'office',
  bridge: 'br-office',
  uplink: 'eno1',
  subnet: '10.1.0.0/24',
  gateway: '10.1.0.1',
  dns: ['10.1.0.2', '10.1.0.3'],
  range: ['10.1.0.10', '10.1.0.199'],
});
await post('/classes', {
  name: 'gold',
  note: 'for what must not fail',
  settings: { ha: true, haPriority: 90 },
});
await post('/classes', { name: 'bronze', note: 'for trying things out', settings: { ha: false } });
const names = [
  'mail',
  'wiki',
  'files',
  'build-1',
  'build-2',
  'ldap',
  'dns-1',
  'dns-2',
  'print',
  'erp',
  'crm',
  'monitor',
];
const vms = [];
for (const [i, name] of names.entries()) {
  const node = `n${(i % 3) + 1}`;
  const disks = [{ name: 'root', sizeBytes: (8 + 4 * i) * GiB, pool: 'shared' }];
  const vm = await made(r, {
    name,
    node,
    disks,
    cpus: 1 + (i % 4),
    memoryMiB: 512 + 256 * (i % 3),
    tags: [i % 2 === 0 ? 'office' : 'engineering'],
    nics: [{ network: lan.id }],
    ha: { enabled: true },
  });
  await armed(r, name, `n${((i + 1) % 3) + 1}`);
  vms.push({ ...vm, node });
}
const member = (order: number) => ({
  start: { order },
  vm: { memoryMiB: 256, nics: [{ network: 'back' }] },
});
const { vapp } = (await post('/vapps', {
  document: {
    kind: 'VApp',
    name: 'shop',
    note: 'The web shop, with its database',
    networks: { back: { isolated: true } },
    members: { db: member(1), search: member(1), app: member(2), web: member(3) },
  },
})) as unknown as { vapp: { id: string } };
await person(r, 'vera', 'viewer');
await person(r, 'olga', 'operator');

const drive = (device: string, use: NodeDrive['use']): NodeDrive => ({
  device,
  serial: `S3Z${device.toUpperCase()}`,
  model: 'Example NVMe 960 GB',
  sizeBytes: 960e9,
  use,
  text: '',
  health: { well: true, text: '' },
});
const nowS = Math.floor(Date.now() / 30_000) * 30;
const day: HistoryPoint[] = [];
for (let atS = nowS - 86_400; atS < nowS; atS += 30) {
  const hour = ((nowS - atS) / 3_600) % 24;
  const busy = 22 + 18 * Math.sin(hour / 3.8) + (hour > 1 && hour < 2 ? 35 : 0) + (atS % 7);
  const avg = [busy, (2 + busy / 50) * GiB, busy * 30_000, busy * 60_000, busy * 9_000, busy * 4_000];
  day.push({ atS, avg, max: avg.map((n) => n * 1.2) });
}
for (const [id, n] of r.radio.nodes) {
  n.state = {
    ...n.state,
    cpuUsedPct: 31,
    memoryUsedBytes: 6 * GiB,
    drives: [drive('nvme0n1', 'system'), drive('nvme1n1', 'empty')],
    hears: Object.fromEntries([...r.radio.nodes.keys()].filter((o) => o !== id).map((o) => [o, 400])),
  };
  for (const subject of ['node', ...vms.map((v) => v.id)])
    r.ask.answers.set(`${id} /v1/history/${subject}?span=day`, historyOf('day', day));
  for (const [i, vm] of [...n.vms.entries()].entries()) {
    const [key, state] = vm;
    const stats = {
      atMs: Date.now(),
      cpuPct: 7 + 13 * i,
      memoryUsedBytes: 400 * 2 ** 20,
      memoryBytes: 768 * 2 ** 20,
      diskReadBps: 120_000,
      diskWriteBps: 480_000,
      netRxBps: 90_000,
      netTxBps: 310_000,
    };
    n.vms.set(key, { ...state, stats, guestAgent: true, hostname: state.name, upSinceMs: Date.now() - 9e7 });
  }
}
r.radio.news();
const shared = (await r.call('GET', '/api/v1/pools/shared')).body as { id: string };
const [first] = vms;
if (first === undefined) throw new Error('there is no VM');

/** Name of the picture, where it is, and a text that shows that all has come. */
const pages: readonly (readonly [string, string, string])[] = [
  ['overview', '/', 'Last operations'],
  ['vms', '/vms', 'wiki'],
  ['vm', `/vms/${first.id}`, 'Guest agent'],
  ['vm-disks', `/vms/${first.id}/disks`, 'root'],
  ['vm-new', '/vms/new', 'The same by command line'],
  ['vapp', `/vapps/${vapp.id}`, 'search'],
  ['import', '/vapps/import', 'OVA'],
  ['nodes', '/nodes', 'n3'],
  ['node', '/nodes/n1', 'Lease in the ledger'],
  ['node-performance', '/nodes/n1/performance', 'In figures'],
  ['node-if-it-fails', '/nodes/n1/if-it-fails', 'would start elsewhere'],
  ['pool', `/pools/${shared.id}`, 'On each node'],
  ['network', `/networks/${lan.id}/vms`, 'wiki'],
  ['classes', '/classes', 'gold'],
  ['balance', '/balance', 'By itself'],
  ['ha', '/ha', 'are protected'],
  ['users', '/users', 'olga'],
  ['sign-on', '/sign-on', 'The provider must know'],
  ['notifications', '/notifications', 'Nobody is told of failures'],
];

async function picture(page: Page, name: string): Promise<void> {
  await page.screenshot({ path: path.join(into, `${name}.png`) });
  console.log(name);
}

await mkdir(into, { recursive: true });
const browser = await openBrowser();
let failed = false;
try {
  for (const look of looks.filter((x) => x.name.startsWith('wide'))) {
    const page = await (await openContext(browser, look)).newPage();
    page.setDefaultTimeout(limitMs);
    await page.goto(l.url);
    await page.getByLabel('API token').fill(r.token);
    await page.getByRole('button', { name: 'Log in' }).click();
    await page.getByRole('status').first().waitFor();
    for (const [name, at, text] of pages) {
      if (only.length > 0 && !only.includes(name)) continue;
      try {
        await page.goto(l.url + at);
        await page.locator('#content').getByText(text).first().waitFor();
        if (name.endsWith('performance')) await page.locator('.u-over').nth(3).waitFor();
        await picture(page, `${name}-${look.colorScheme}`);
      } catch (error) {
        failed = true;
        console.error(`${name}: ${String(error).split('\n')[0]}`);
      }
    }
  }
} finally {
  await browser.close();
  await l.stop();
}
process.exit(failed ? 1 : 0);
