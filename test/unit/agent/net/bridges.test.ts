import { execFileSync } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import t from 'tap';
import { Bridges } from '../../../../agent/net/bridges.js';
import { runTool, type Tool } from '../../../../agent/pool/tool.js';
import { FlotillaError } from '../../../../core/domain/error.js';
import type { Network } from '../../../../core/domain/network.js';

interface Net {
  ip: (...args: string[]) => string;
  links: () => Map<string, Record<string, unknown>>;
  bridges: Bridges;
  ns: string;
}

/** A network namespace of the test's own with NICs eth1 and eth2. */
function namespace(t: { teardown: (f: () => void) => void }, run: Tool = runTool): Net {
  const ns = `flt-${randomUUID().slice(0, 8)}`;
  execFileSync('ip', ['netns', 'add', ns]);
  t.teardown(() => execFileSync('ip', ['netns', 'del', ns]));
  const ip = (...args: string[]) =>
    execFileSync('ip', ['-n', ns, ...args], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] });
  for (const [a, b] of [
    ['eth1', 'far1'],
    ['eth2', 'far2'],
  ] as const)
    ip('link', 'add', 'name', a, 'type', 'veth', 'peer', 'name', b);
  const links = () =>
    new Map(
      (JSON.parse(ip('-j', '-d', 'link', 'show')) as { ifname: string }[]).map((l) => [
        l.ifname,
        l as Record<string, unknown>,
      ]),
    );
  return { ip, links, ns, bridges: new Bridges({ node: 'n1', ipArgs: ['-n', ns], run }) };
}

const network = (o: Partial<Network> = {}): Network => ({
  id: randomUUID(),
  name: 'lan',
  bridge: 'br-lan',
  uplink: null,
  subnet: null,
  gateway: null,
  dns: [],
  range: null,
  ...o,
});
const codeOf = async (p: Promise<unknown>) =>
  p.then(() => null).catch((e: unknown) => (e instanceof FlotillaError ? e.code : e));

await t.test(
  'a bridge is made, marked, up, without an address of its own; again changes nothing',
  async (t) => {
    const { bridges, links, ip } = namespace(t);
    const lan = network();
    await bridges.ensure(lan);
    const first = links().get('br-lan');
    t.match(first, {
      ifalias: `flotilla:${lan.id}`,
      linkinfo: { info_kind: 'bridge', info_data: { stp_state: 0, forward_delay: 0 } },
      inet6_addr_gen_mode: 'none',
    });
    t.ok((first?.['flags'] as string[]).includes('UP'));
    await Promise.all([bridges.ensure(lan), bridges.ensure(lan)]);
    t.equal(links().get('br-lan')?.['ifindex'], first?.['ifindex']);
    t.match(JSON.parse(ip('-j', 'address', 'show', 'br-lan')), [{ addr_info: { length: 0 } }]);
    t.strictSame(await bridges.owned(), [{ network: lan.id, bridge: 'br-lan' }]);
  },
);

await t.test('an uplink is put in, exchanged, and given back', async (t) => {
  const { bridges, links } = namespace(t);
  const lan = network({ uplink: 'eth1' });
  await bridges.ensure(lan);
  t.match(links().get('eth1'), { master: 'br-lan', ifalias: `flotilla-uplink:${lan.id}` });
  await bridges.ensure({ ...lan, uplink: 'eth2' });
  t.match(links().get('eth2'), { master: 'br-lan' });
  t.match(links().get('eth1'), { master: undefined, ifalias: undefined });
  await bridges.ensure({ ...lan, uplink: null });
  t.match(links().get('eth2'), { master: undefined });
  await bridges.ensure(lan);
  await bridges.remove(lan);
  t.equal(links().has('br-lan'), false);
  t.match(links().get('eth1'), { master: undefined, ifalias: undefined });
  await bridges.remove(lan);
});

await t.test('the card by which the node is reached is never taken', async (t) => {
  const { bridges, links, ip } = namespace(t);
  ip('address', 'add', '10.9.9.9/24', 'dev', 'eth1');
  const fault = await bridges.ensure(network({ uplink: 'eth1' })).catch((e: unknown) => e);
  t.match(fault, { code: 'in-use', message: /eth1.*10\.9\.9\.9/ });
  t.equal(links().has('br-lan'), false, 'no bridge that only looks like one');
  t.match(links().get('eth1'), { master: undefined });
  // Nor when the address is on a link made upon it.
  ip('link', 'add', 'link', 'eth2', 'name', 'eth2.5', 'type', 'macvlan');
  ip('address', 'add', '10.8.8.8/24', 'dev', 'eth2.5');
  t.match(await bridges.ensure(network({ uplink: 'eth2' })).catch((e: unknown) => e), {
    code: 'in-use',
    message: /eth2\.5/,
  });
  t.equal(await codeOf(bridges.ensure(network({ uplink: 'eth7' }))), 'not-found');
  t.equal(await codeOf(bridges.ensure(network({ uplink: 'lo' }))), 'in-use');
  await bridges.ensure(network({ uplink: 'eth2.5', bridge: 'other' })).catch(() => undefined);
  t.match(links().get('eth2.5'), { master: undefined });
});

await t.test('what is not ours is not touched', async (t) => {
  const { bridges, links, ip } = namespace(t);
  ip('link', 'add', 'name', 'br-lan', 'type', 'bridge', 'stp_state', '1');
  const lan = network();
  t.match(await bridges.ensure(lan).catch((e: unknown) => e), { code: 'in-use', message: /is down/ });
  ip('link', 'set', 'br-lan', 'up');
  await bridges.ensure(lan);
  t.match(
    links().get('br-lan'),
    { ifalias: undefined, linkinfo: { info_data: { stp_state: 1 } } },
    'used as it is',
  );
  t.match(await bridges.ensure({ ...lan, uplink: 'eth1' }).catch((e: unknown) => e), {
    code: 'in-use',
    message: /does not have eth1/,
  });
  await bridges.remove(lan);
  t.ok(links().has('br-lan'));
  t.equal(await codeOf(bridges.ensure(network({ bridge: 'far1' }))), 'in-use', 'no bridge');
  const ours = network({ bridge: 'br-b' });
  await bridges.ensure(ours);
  t.equal(await codeOf(bridges.ensure(network({ bridge: 'br-b' }))), 'in-use', 'another network’s');
  t.equal(
    await codeOf(bridges.ensure(network({ bridge: 'br-c', uplink: 'br-b' }))),
    'in-use',
    'a bridge as uplink',
  );
});

await t.test('a bridge with VMs on it stays', async (t) => {
  const { bridges, links, ip } = namespace(t);
  const lan = network({ uplink: 'eth1' });
  await bridges.ensure(lan);
  ip('link', 'set', 'eth2', 'master', 'br-lan');
  t.match(await bridges.remove(lan).catch((e: unknown) => e), { code: 'in-use', message: /eth2/ });
  t.match(links().get('eth1'), { master: 'br-lan' }, 'nothing was undone');
});

await t.test('whatever step an agent dies at, the next one ends with the bridge as wanted', async (t) => {
  for (let at = 1; ; at++) {
    let calls = 0;
    const dying: Tool = async (file, args, o) => {
      if (++calls >= at) throw new Error('died');
      return runTool(file, args, o);
    };
    const { bridges, links, ns } = namespace(t, dying);
    const lan = network({ uplink: 'eth1' });
    const died = await bridges.ensure(lan).then(
      () => false,
      () => true,
    );
    for (const [name, link] of links())
      if (name === 'br-lan') t.equal(link['ifalias'], `flotilla:${lan.id}`, 'never there without its mark');
    await new Bridges({ node: 'n1', ipArgs: ['-n', ns] }).ensure(lan);
    t.match(links().get('eth1'), { master: 'br-lan' });
    t.strictSame(
      [...links().keys()].filter((n) => n.startsWith('flt-')),
      [],
    );
    if (!died) {
      t.ok(at > 6);
      break;
    }
  }
});

await t.test('looked at by /sys, from inside, the same is told as by "ip"', async (t) => {
  const { bridges, ip, ns } = namespace(t);
  const lan = network({ uplink: 'eth1' });
  await bridges.ensure(lan);
  ip('link', 'add', 'name', 'br-own', 'type', 'bridge');
  ip('link', 'set', 'dev', 'eth2', 'alias', 'flotilla:no-bridge');
  const module = new URL('../../../../agent/net/bridges.js', import.meta.url).href;
  // `ip netns exec` gives it a /sys of that namespace. A run of `ip` would throw.
  const program = `
    const { Bridges } = await import(${JSON.stringify(module)});
    const bridges = new Bridges({ node: 'n1', run: () => { throw new Error('ip was run'); } });
    await bridges.ensure(${JSON.stringify(lan)});
    console.log(JSON.stringify(await bridges.owned()));`;
  const inside = execFileSync(
    'ip',
    ['netns', 'exec', ns, process.execPath, '--input-type=module', '-e', program],
    { encoding: 'utf8' },
  );
  t.strictSame(JSON.parse(inside), await bridges.owned());
  t.strictSame(JSON.parse(inside), [{ network: lan.id, bridge: 'br-lan' }]);
});
