import path from 'node:path';
import { mkdir } from 'node:fs/promises';
import type { Page } from 'playwright-core';
import { historyOf, type HistoryPoint } from '../../core/domain/history.js';
import type { NodeDrive } from '../../core/domain/node.js';
import { lab } from '../unit/controller/cli-rig.js';
import { queuedOp } from '../../core/domain/op.js';
import type { OpView } from '../../core/wire/rest.js';
import { armed, haRig, lost, made } from '../unit/controller/ha-rig.js';
import { password, person } from '../unit/controller/people.js';
import { GiB } from '../unit/controller/rig.js';
import { looks, openBrowser, openContext } from './browser.js';
import { builtPage } from './stage.js';

/**
 * Makes the pictures of the controller's page that the documents show, by day and by night, of a small company's cluster:
 * `node build/js/test/web/screens.js [NAME...]`. Those of consoles are their test's, of real machines.
 */
const into = path.resolve('docs/screens');
const only = process.argv.slice(2);
/** A loaded machine draws slowly, ms. */
const limitMs = 60_000;

const web = await builtPage();
const l = await lab(() => haRig(web));
const { r } = l;
const post = async (at: string, body: object): Promise<{ id: string }> => {
  const a = await r.call('POST', `/api/v1${at}`, body);
  if (a.status >= 300) throw new Error(`${at}: ${JSON.stringify(a.body)}`);
  return a.body;
};

const opsOpen = async (): Promise<readonly OpView[]> =>
  ((await r.call('GET', '/api/v1/ops?state=open')).body as { items: OpView[] }).items;

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
const vms: (Awaited<ReturnType<typeof made>> & { node: string })[] = [];
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
    power: 'running',
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
await person(r, 'anna', 'admin');
await person(r, 'vera', 'viewer');
await person(r, 'olga', 'operator');

await post('/images', { name: 'debian-13', url: 'https://images.example.org/debian-13.qcow2' });
await post('/templates', { name: 'wiki-base', vm: 'wiki' });
await post(`/vms/${vms[0]?.id ?? ''}/snapshots`, { name: 'before-update' });
for (const { id } of await opsOpen()) await r.call('GET', `/api/v1/ops/${id}?waitS=1`);
// Nobody is here who deploys and makes templates.
for (const op of await opsOpen())
  r.memory.poke(`/flotilla/op/${op.id}`, JSON.stringify({ ...op, state: 'done', progress: 1 }));
await armed(r, 'mail', 'n2');

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

/** A drain under way: one VM moves, one is gone, one waits. */
const drainId = '00000000-0000-4000-8000-0000000000e1';
const moveId = '00000000-0000-4000-8000-0000000000e2';
function drain(): void {
  const of = vms.filter((v) => v.node === 'n2').slice(0, 3);
  const states = ['moving', 'moved', 'waiting'];
  const lines = of.map((v, i) => ({
    vm: v.id,
    state: states[i],
    to: i === 2 ? 'n3' : 'n1',
    text: i === 2 ? 'waits for others' : '',
    ...(i === 0 ? { op: moveId } : {}),
  }));
  const now = Date.now();
  const whole = queuedOp(
    {
      id: drainId,
      kind: 'node.drain',
      subject: { kind: 'node', id: 'n2', name: 'n2' },
      node: null,
      askedBy: 'olga',
      args: { node: 'n2', restart: false, leave: false, vms: lines },
    },
    now - 40_000,
  );
  const move = queuedOp(
    {
      id: moveId,
      kind: 'vm.migrate',
      subject: { kind: 'vm', id: of[0]?.id ?? '', name: of[0]?.name ?? '' },
      node: 'n2',
      askedBy: 'node.drain of n2',
      args: { from: 'n2', to: 'n1', for: drainId },
    },
    now - 9_000,
  );
  const step = '1 of 3 VMs are away from n2, 1 moving, 1 wait';
  for (const op of [
    { ...whole, state: 'running', step, progress: 0.33, updatedMs: now },
    { ...move, state: 'running', step: 'memory: 212 of 512 MiB', progress: 0.41, updatedMs: now },
  ])
    r.memory.poke(`/flotilla/op/${op.id}`, JSON.stringify(op));
}

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
  ['pool', `/pools/${shared.id}`, 'One directory that all its nodes mount'],
  ['network', `/networks/${lan.id}/vms`, 'wiki'],
  ['classes', '/classes', 'gold'],
  ['balance', '/balance', 'By itself'],
  ['ha', '/ha', 'are protected'],
  ['users', '/users', 'olga'],
  ['sign-on', '/sign-on', 'The provider must know'],
  ['notifications', '/notifications', 'Nobody is told of failures'],
  ['vm-performance', `/vms/${first.id}/performance`, 'In figures'],
  ['vm-snapshots', `/vms/${first.id}/snapshots`, 'before-update'],
  ['vm-protection', `/vms/${first.id}/protection`, 'Protected'],
  ['vapps', '/vapps', 'shop'],
  ['templates', '/templates', 'wiki-base'],
  ['pools', '/pools', 'shared'],
  ['networks', '/networks', 'br-office'],
  ['images', '/images', 'debian-13'],
  ['ops', '/ops', 'vm create'],
  ['access', '/tokens', 'Who may use the API'],
  ['me', '/me', 'anna'],
];

/** A node is gone, failovers wait for a person, and one that was made in time. */
async function trouble(): Promise<void> {
  const [, , x] = vms;
  if (x === undefined) return;
  const phasesMs = { 'last-beat': 0, 'lease-gone': 2100, 'wait-over': 9200, owned: 9250, running: 11_900 };
  const op = queuedOp(
    {
      id: '00000000-0000-4000-8000-0000000000f1',
      kind: 'vm.failover',
      subject: { kind: 'vm', id: x.id, name: x.name },
      node: 'n1',
      askedBy: 'n1',
      args: { from: 'n3', to: 'n1', fence: 'waited', atMs: Date.now() - 60_000, phasesMs },
    },
    Date.now(),
  );
  r.memory.poke(`/flotilla/op/${op.id}`, JSON.stringify({ ...op, state: 'done', progress: 1 }));
  await r.call('PATCH', '/api/v1/policy', { ha: { hold: true } });
  await lost(r, 'n3');
}

async function picture(page: Page, name: string): Promise<void> {
  await page.screenshot({ path: path.join(into, `${name}.png`) });
  console.log(name);
}

await mkdir(into, { recursive: true });
const browser = await openBrowser();
let failed = false;
const wanted = (name: string): boolean => only.length === 0 || only.includes(name);
async function tryTo(name: string, draw: () => Promise<void>): Promise<void> {
  if (!wanted(name)) return;
  try {
    await draw();
  } catch (error) {
    failed = true;
    console.error(`${name}: ${String(error).split('\n')[0]}`);
  }
}
try {
  const opened: { page: Page; scheme: string }[] = [];
  for (const look of looks.filter((x) => x.name.startsWith('wide'))) {
    const page = await (await openContext(browser, look)).newPage();
    page.setDefaultTimeout(limitMs);
    await page.goto(l.url);
    await page.getByLabel('Name').fill('anna');
    await page.getByLabel('Password').fill(password('anna'));
    await page.getByRole('button', { name: 'Log in' }).click();
    await page.getByRole('status').first().waitFor();
    opened.push({ page, scheme: look.colorScheme });
  }
  const each = async (name: string, at: string, text: string, then?: (p: Page) => Promise<void>) => {
    for (const { page, scheme } of opened)
      await tryTo(name, async () => {
        await page.goto(l.url + at);
        await page.locator('#content').getByText(text).first().waitFor();
        if (name.endsWith('performance')) await page.locator('.u-over').nth(3).waitFor();
        await then?.(page);
        await picture(page, `${name}-${scheme}`);
      });
  };
  for (const [name, at, text] of pages) await each(name, at, text);
  await each('vms-bulk', '/vms?tags=office', 'mail', async (page) => {
    await page.getByLabel('Choose all shown').check();
    await page.getByRole('button', { name: 'Migrate' }).click();
    await page.getByRole('dialog').getByText(', 2 at a time').waitFor();
  });
  drain();
  await each('op', `/ops/${drainId}`, 'What it consists of');
  await each('strip', '/', 'Last operations', async (page) => {
    await page.getByRole('button', { name: '1 running' }).click();
    await page.getByRole('button', { name: 'Parts: 1 of 3 done' }).click();
    await page.locator('.parts').getByRole('progressbar').waitFor();
  });
  for (const id of [moveId, drainId]) r.memory.drop(`/flotilla/op/${id}`);
  await trouble();
  await each('trouble', '/', 'What needs a hand');
} finally {
  await browser.close();
  await l.stop();
}
process.exit(failed ? 1 : 0);
