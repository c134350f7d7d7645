import { mkdirSync, writeFileSync } from 'node:fs';
import type { Page } from 'playwright-core';
import t from 'tap';
import { ConsoleDoor } from '../../agent/consoles/door.js';
import { createAgentHttp } from '../../agent/http/server.js';
import { domainXml } from '../../agent/vm/domain-xml.js';
import { HttpsConsoles } from '../../controller/console-dial.js';
import type { VmView } from '../../core/wire/rest.js';
import { cannotRun, LabDaemon } from '../lab/libvirt/daemon.js';
import { bootDisk } from '../lab/libvirt/guest.js';
import { waitFor } from '../lab/harness.js';
import { TestCa } from '../unit/agent/radio/test-pki.js';
import { lab } from '../unit/controller/cli-rig.js';
import { armed, haRig, made } from '../unit/controller/ha-rig.js';
import { GiB } from '../unit/controller/rig.js';
import { barriers, looks, openBrowser, openContext, screenshot, sideScroll } from './browser.js';
import { builtPage } from './stage.js';

/*
 * Chromium, a real controller, the agent's own server and door over mutual TLS, and machines of real libvirt and QEMU
 * defined by the agent's own XML. The ledger is in memory, so that the test says who owns the VM.
 */
const why = cannotRun();
if (why !== false) {
  t.plan(0, why);
  process.exit();
}
t.setTimeout(600_000);

const daemon = await LabDaemon.start('n1');
const web = await builtPage();
const l = await lab(() => haRig(web));
const { r } = l;
const tls = await (await new TestCa(t.testdir({}), 'ca').make()).certificate('n1');

/** Each node's machine of the VM: two machines, as after a failover. */
const inside = { n1: '/run/n1', n2: '/run/n2' } as const;
type NodeName = keyof typeof inside;
const servers = await Promise.all(
  (['n1', 'n2'] as const).map(async (node) => {
    const door = new ConsoleDoor({
      paths: () => ({
        serial: `${daemon.root}${inside[node]}/serial.sock`,
        vnc: `${daemon.root}${inside[node]}/vnc.sock`,
        serialLog: `${daemon.root}${inside[node]}/serial.log`,
      }),
      isMember: () => true,
      onRefused: () => undefined,
    });
    const quiet = { info: () => undefined, warn: () => undefined, error: () => undefined };
    const http = createAgentHttp({
      host: '127.0.0.1',
      port: 0,
      node,
      tls: () => tls,
      verifyToken: () => ({ ok: false, code: 'token-unknown' }),
      health: () => ({ ok: true, node, version: '0', fingerprint: '' }),
      page: () => '',
      metrics: () => '',
      mounts: [],
      upgrade: (req, socket, head) => door.upgrade(req, socket, head),
      clock: { nowMs: () => 0 },
      log: quiet,
    });
    await http.start();
    return { node, door, http };
  }),
);
const portOf = (node: string): number => servers.find((s) => s.node === node)?.http.port ?? 0;
r.machines.real = (node, path, signal) =>
  // The test's certificates say localhost.
  new HttpsConsoles({ tls: () => tls, port: portOf(node) }).dial(
    { id: 'localhost', address: '127.0.0.1' },
    path,
    signal,
  );

const browser = await openBrowser();
t.teardown(async () => {
  await browser.close();
  await l.stop();
  for (const s of servers) {
    s.door.stop();
    await s.http.stop();
  }
  await daemon.stop();
});

await made(r, {
  name: 'web',
  node: 'n1',
  disks: [{ name: 'root', sizeBytes: GiB, pool: 'shared' }],
  ha: { enabled: true },
});
const vm = await armed(r, 'web', 'n2');

async function power(node: NodeName, uuid: string): Promise<void> {
  const at = inside[node];
  mkdirSync(`${daemon.root}${at}`, { recursive: true });
  writeFileSync(`${daemon.root}/tmp/${node}.img`, bootDisk(0));
  const xml = domainXml({
    id: uuid,
    name: `web on ${node}`,
    accel: 'tcg',
    inSlice: false,
    mark: { gen: 1, generation: 1, startedMs: 1 },
    paths: { serial: `${at}/serial.sock`, vnc: `${at}/vnc.sock`, serialLog: `${at}/serial.log` },
    hardware: {
      cpus: 1,
      cpusMax: 1,
      memoryMiB: 64,
      memoryMaxMiB: 64,
      firmware: 'bios',
      boot: ['disk'],
      disks: [{ id: 'root', bus: 'virtio', path: `/tmp/${node}.img`, format: 'raw' }],
      cdroms: [],
      nics: [],
      watchdog: false,
      cpuShares: 100,
      cpuQuotaUs: null,
      seed: null,
    },
  });
  writeFileSync(`${daemon.root}/tmp/${node}.xml`, xml);
  await daemon.virsh('create', `/tmp/${node}.xml`);
}
const ids: Record<NodeName, string> = { n1: vm.id, n2: '00000000-0000-4000-8000-0000000000e2' };
await power('n1', ids.n1);
await power('n2', ids.n2);

async function owner(view: VmView, node: NodeName): Promise<void> {
  r.memory.poke(
    `/flotilla/vm/${view.id}/own`,
    JSON.stringify({ ...view.own, state: 'running', owner: node, standby: null }),
  );
  await r.view.ledger.refresh();
  const line = r.radio.nodes.get('n1')?.vms.get(view.id);
  if (line !== undefined && node === 'n2') {
    r.radio.nodes.get('n1')?.vms.delete(view.id);
    r.radio.nodes.get('n2')?.vms.set(view.id, { ...line, node: 'n2' });
  }
  r.radio.news();
}

const [wide] = looks;
const context = await openContext(browser, wide);
const page = await context.newPage();
const complaints: string[] = [];
page.on('console', (m) => {
  if (m.type() === 'error') complaints.push(m.text());
});
page.on('pageerror', (e) => complaints.push(String(e)));
await page.goto(`${l.url}/login`);
await page.getByLabel('API token').fill(r.token);
await page.getByRole('button', { name: 'Log in' }).click();

const limit = { timeout: 90_000 };
const link = (p: Page, state: string) => p.locator(`.console [data-link="${state}"]`).waitFor(limit);
/** What the terminal shows. */
const shown = (p: Page): Promise<string> => p.locator('.xterm-rows').innerText();

await t.test(
  'the serial console prints what the machine says, and the machine reads what is typed',
  async (t) => {
    await page.goto(`${l.url}/vms/${vm.id}/serial`);
    await link(page, 'open');
    await waitFor('dots', async () => /\.{5}/.test(await shown(page)), { limitMs: 90_000 });
    await page.locator('.tty').click();
    await page.keyboard.type('hello');
    // The guest writes a dot between what it echoes.
    await waitFor(
      'the echo',
      async () => /h\.*e\.*l\.*l\.*o/.test((await shown(page)).replaceAll('\n', '')),
      {
        limitMs: 90_000,
      },
    );
    await page.getByRole('button', { name: 'Paste' }).click();
    await page.getByLabel('What is to be typed').fill('PASTED');
    await page.getByRole('button', { name: 'Type it' }).click();
    await waitFor(
      'the pasted text',
      async () => /P\.*A\.*S\.*T\.*E\.*D/.test((await shown(page)).replaceAll('\n', '')),
      { limitMs: 90_000 },
    );
    t.same(await barriers(page), []);
    t.equal(await sideScroll(page), 0);
    await pictures('console-serial');
  },
);

/** By day and by night. */
async function pictures(name: string): Promise<void> {
  for (const colorScheme of ['light', 'dark'] as const) {
    await page.emulateMedia({ colorScheme });
    await screenshot(page, `${name}-${colorScheme}`);
  }
  await page.emulateMedia({ colorScheme: 'light' });
}

await t.test('the screen is drawn, and lives on through Ctrl-Alt-Del', async (t) => {
  await page.goto(`${l.url}/vms/${vm.id}/screen`);
  await link(page, 'open');

  const size = (): Promise<number> =>
    page.evaluate<number>(
      "(({ width, height }) => width * height)(document.querySelector('.screen canvas') ?? { width: 0, height: 0 })",
    );
  await waitFor('a picture', async () => (await size()) >= 640 * 350, { limitMs: 90_000 });
  await page.getByRole('button', { name: 'Ctrl-Alt-Del' }).click();
  t.match(await daemon.virsh('domstate', ids.n1), /running/);
  t.same(await barriers(page), []);
  await pictures('console-screen');
});

await t.test('after a failover the same tab goes on with the machine at the new owner', async (t) => {
  await page.goto(`${l.url}/vms/${vm.id}/serial`);
  await link(page, 'open');
  await waitFor('dots', async () => /\.{5}/.test(await shown(page)), { limitMs: 90_000 });
  await daemon.virsh('destroy', ids.n1);
  await link(page, 'lost');
  await owner(vm, 'n2');
  await page.locator('.console [role=status]', { hasText: 'open: on n2' }).waitFor(limit);
  await page.locator('.tty').click();
  await page.keyboard.type('xyz');
  await waitFor('the echo of n2', async () => /x\.*y\.*z/.test((await shown(page)).replaceAll('\n', '')), {
    limitMs: 90_000,
  });
  t.pass();
});

await t.test('the browser refused nothing, and the tickets are in no address', async (t) => {
  // A websocket that a machine's end closed is no complaint of the policy.
  t.same(
    complaints.filter((c) => /Content Security Policy|Refused|pageerror|TypeError/i.test(c)),
    [],
  );
  const urls = await page.evaluate<string[]>("performance.getEntriesByType('resource').map((e) => e.name)");
  t.notOk(urls.some((u) => /ticket/.test(u)));
});
