import { existsSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { LibvirtHypervisor } from '../../../agent/libvirt/index.js';
import type { RestAnswer, VmCreateInput } from '../../../core/wire/rest.js';
import { Lab, waitFor } from '../../../test/lab/harness.js';
import { Api } from './api.js';
import { say } from './report.js';

const state = '/var/lib/flotilla';
const tinyImage = 'build/images/tiny.qcow2';
/** The least that the tiny guest runs well in. */
const memoryMiB = 96;

export type Vm = RestAnswer<'vmGet'>;

/** The benchmark's own cluster of lab nodes: n1 has the controller, the others only what every node has. */
export class Cluster {
  readonly lab: Lab;
  readonly api: Api;
  private readonly leaders: ReadonlyMap<string, number>;
  private readonly hypervisors = new Map<string, LibvirtHypervisor>();

  private constructor(lab: Lab, api: Api, leaders: ReadonlyMap<string, number>) {
    this.lab = lab;
    this.api = api;
    this.leaders = leaders;
  }

  /** Finds the cluster that scripts/bench has brought up, and waits until it is well. */
  static async open(lab: Lab): Promise<Cluster> {
    const leaders = new Map<string, number>();
    for (const m of (await lab.must('ps')).matchAll(/^(n\d+) on, pid (\d+),/gm))
      leaders.set(m[1] ?? '', Number(m[2]));
    const root = `/proc/${leaders.get('n1') ?? 0}/root${state}`;
    const api = new Api({
      host: lab.address('n1'),
      port: 8443,
      ca: readFileSync(`${root}/pki/ca.crt`, 'utf8'),
      token: readFileSync(`${root}/admin-token`, 'utf8').trim(),
    });
    const cluster = new Cluster(lab, api, leaders);
    await waitFor('every node heard, voters in place', async () => {
      const { items } = await api.get<RestAnswer<'nodeList'>>('/nodes');
      return items.length === leaders.size && items.every((n) => n.presence === 'here' && n.record.voter);
    });
    await cluster.furnish();
    return cluster;
  }

  /** What the VMs need: a pool, a network that hands out addresses, the image. */
  private async furnish(): Promise<void> {
    const has = async (what: 'pools' | 'networks' | 'images', name: string): Promise<boolean> =>
      (await this.api.get<{ items: { name: string }[] }>(`/${what}`)).items.some((x) => x.name === name);
    if (!(await has('pools', 'local')))
      await this.api.post('/pools', { name: 'local', kind: 'local', path: `${state}/pools/local` });
    if (!(await has('pools', 'shared')))
      await this.api.post('/pools', { name: 'shared', kind: 'shared', path: '/srv/shared' });
    if (!(await has('networks', 'bench')))
      await this.api.post('/networks', {
        name: 'bench',
        bridge: 'flbench0',
        subnet: '10.99.0.0/24',
        range: ['10.99.0.10', '10.99.0.250'],
      });
    await waitFor('pools on every node', async () => {
      const { items } = await this.api.get<RestAnswer<'poolList'>>('/pools');
      return items.every((p) => p.use.filter((u) => u.ok).length === this.leaders.size);
    });
    if (await has('images', 'tiny')) return;
    if (!existsSync(tinyImage)) throw new Error(`there is no ${tinyImage}: images/build tiny`);
    const bytes = readFileSync(path.resolve(tinyImage));
    const { image } = await this.api.post<RestAnswer<'imageCreate'>>('/images', {
      name: 'tiny',
      pool: 'shared',
      sizeBytes: bytes.length,
    });
    await this.api.raw('PUT', `/images/${image.id}/content`, bytes, { 'upload-offset': '0' });
    const { op } = await this.api.post<RestAnswer<'imageComplete'>>(`/images/${image.id}/complete`);
    if (op !== null) await this.api.ended(op);
  }

  /** A file of a node, seen from here. */
  file(node: string, file: string): string {
    return `/proc/${this.leaders.get(node) ?? 0}/root${file}`;
  }

  /** This node's libvirt, by the project's own client. */
  async hypervisor(node: string): Promise<LibvirtHypervisor> {
    let h = this.hypervisors.get(node);
    if (h === undefined) {
      h = new LibvirtHypervisor({ socketPath: this.file(node, '/run/libvirt/libvirt-sock') });
      h.open();
      this.hypervisors.set(node, h);
    }
    await h.waitConnected();
    return h;
  }

  /** Makes a VM of the tiny guest, with a disk, a NIC and cloud-init as an ordinary one has. */
  async make(name: string, node: string, power: 'running' | 'stopped'): Promise<Vm> {
    const body: VmCreateInput = {
      name,
      node,
      power,
      cpus: 1,
      memoryMiB,
      disks: [{ image: 'tiny', mode: 'linked', pool: 'shared' }],
      nics: [{ network: 'bench' }],
      cloudInit: { hostname: name },
    };
    const { op, vm } = await this.api.post<RestAnswer<'vmCreate'>>('/vms', body);
    await this.api.ended(op);
    return vm;
  }

  /** Takes every VM away, then makes so many running ones on the node. */
  async only(count: number, node: string): Promise<Vm[]> {
    const { items } = await this.api.get<RestAnswer<'vmList'>>('/vms');
    const have = items.filter((v) => v.node === node && v.phase === 'running' && v.name.startsWith('idle-'));
    const gone = items.filter((v) => !have.includes(v));
    for (const v of [...gone, ...have.slice(count)])
      await this.api.ended((await this.api.delete<RestAnswer<'vmDelete'>>(`/vms/${v.id}?force=true`)).op);
    const kept = have.slice(0, count);
    const missing = count - kept.length;
    if (missing > 0) say(`${missing} VMs on ${node}`);
    const names = new Set(kept.map((v) => v.name));
    for (let i = 0; names.size < count; i++) {
      const name = `idle-${i}`;
      if (names.has(name)) continue;
      names.add(name);
      await this.make(name, node, 'running');
    }
    const { items: now } = await this.api.get<RestAnswer<'vmList'>>('/vms');
    return Promise.all(now.map((v) => this.api.get<Vm>(`/vms/${v.id}`)));
  }

  /** Waits until every VM of the node prints that it is up and idle. */
  async idle(node: string, vms: readonly Vm[]): Promise<void> {
    await waitFor(
      `guests of ${node} up`,
      () =>
        vms.every((v) => {
          const log = v.observed === null ? '' : `${state}/consoles/${v.id}.log`;
          return readFileSync(this.file(node, log), 'latin1').includes('TINY ready');
        }),
      { limitMs: 300_000, everyMs: 1_000 },
    );
  }

  /** One property of a unit, as systemd in the node says. */
  async unit(node: string, unit: string, property: string): Promise<string> {
    return this.lab.sh(node, `systemctl show --value -p ${property} ${unit}`);
  }

  async close(): Promise<void> {
    for (const h of this.hypervisors.values()) await h.close();
    this.api.close();
  }
}
