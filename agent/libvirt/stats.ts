import type { BlockStats, DomainStats, NetStats, StatsGroup, VcpuStats } from './hypervisor.js';
import { known, numbers } from './job-stats.js';
import type { TypedParam, WireDomain } from './protocol.js';
import { domainState } from './words.js';

/** libvirt's bit for each group. */
export const STATS_BIT: Readonly<Record<StatsGroup, number>> = {
  state: 1,
  cpu: 2,
  balloon: 4,
  vcpu: 8,
  net: 16,
  block: 32,
  vm: 1024,
};

/** More than this of anything in one domain is a daemon gone mad, not a VM. */
const INDEX_MAX = 4096;

const VCPU_STATE = ['offline', 'running', 'blocked'] as const;

/** One record of "statistics of all domains", from libvirt's dotted names to a typed value. */
export function domainStats(domain: WireDomain, params: readonly TypedParam[], raw: boolean): DomainStats {
  const n = numbers(params);
  const text = new Map<string, string>();
  for (const p of params) if (p.type === 'string') text.set(p.field, p.value);
  const state = n.get('state.state');
  const cpuTime = n.get('cpu.time');
  const vcpus = n.get('vcpu.current');
  const { uuid, name, id } = domain;
  return {
    uuid,
    name,
    id: id < 0 ? null : id,
    ...(state === undefined ? {} : { state: domainState(state, n.get('state.reason') ?? 0) }),
    ...(cpuTime === undefined
      ? {}
      : { cpu: { timeNs: cpuTime, ...known({ userNs: n.get('cpu.user'), systemNs: n.get('cpu.system') }) } }),
    ...(n.has('balloon.current') ? { balloon: balloon(n) } : {}),
    ...(vcpus === undefined
      ? {}
      : { vcpu: { current: vcpus, maximum: n.get('vcpu.maximum') ?? vcpus, each: vcpuEach(n) } }),
    ...(n.has('net.count') ? { net: nets(n, text) } : {}),
    ...(n.has('block.count') ? { block: blocks(n, text) } : {}),
    ...(raw ? { raw: Object.fromEntries(params.map(({ field, value }) => [field, value])) } : {}),
  };
}

type Numbers = ReadonlyMap<string, number>;
type Texts = ReadonlyMap<string, string>;

function balloon(n: Numbers): NonNullable<DomainStats['balloon']> {
  return known({
    currentKiB: n.get('balloon.current'),
    maximumKiB: n.get('balloon.maximum'),
    rssKiB: n.get('balloon.rss'),
    unusedKiB: n.get('balloon.unused'),
    availableKiB: n.get('balloon.available'),
    usableKiB: n.get('balloon.usable'),
    diskCachesKiB: n.get('balloon.disk_caches'),
    swapInKiB: n.get('balloon.swap_in'),
    swapOutKiB: n.get('balloon.swap_out'),
    majorFaults: n.get('balloon.major_fault'),
    minorFaults: n.get('balloon.minor_fault'),
    lastUpdateS: n.get('balloon.last-update'),
  });
}

/** vCPUs have gaps: an offline one is not listed, so their numbers are read from the names */
function vcpuEach(n: Numbers): VcpuStats[] {
  const each: VcpuStats[] = [];
  for (const [field, state] of n) {
    const index = /^vcpu\.(\d+)\.state$/.exec(field)?.[1];
    if (index === undefined) continue;
    const halted = n.get(`vcpu.${index}.halted`);
    each.push({
      index: Number(index),
      state: VCPU_STATE[state] ?? 'unknown',
      ...known({
        timeNs: n.get(`vcpu.${index}.time`),
        waitNs: n.get(`vcpu.${index}.wait`),
        delayNs: n.get(`vcpu.${index}.delay`),
      }),
      ...(halted === undefined ? {} : { halted: halted !== 0 }),
    });
  }
  return each.sort((a, b) => a.index - b.index);
}

function indexes(n: Numbers, count: string): number[] {
  return Array.from({ length: Math.min(n.get(count) ?? 0, INDEX_MAX) }, (_, i) => i);
}

function nets(n: Numbers, text: Texts): NetStats[] {
  return indexes(n, 'net.count').map((i) => {
    const get = (what: string): number => n.get(`net.${i}.${what}`) ?? 0;
    return {
      name: text.get(`net.${i}.name`) ?? '',
      rxBytes: get('rx.bytes'),
      rxPackets: get('rx.pkts'),
      rxErrors: get('rx.errs'),
      rxDropped: get('rx.drop'),
      txBytes: get('tx.bytes'),
      txPackets: get('tx.pkts'),
      txErrors: get('tx.errs'),
      txDropped: get('tx.drop'),
    };
  });
}

function blocks(n: Numbers, text: Texts): BlockStats[] {
  return indexes(n, 'block.count').map((i) => {
    const get = (what: string): number | undefined => n.get(`block.${i}.${what}`);
    const path = text.get(`block.${i}.path`);
    return {
      name: text.get(`block.${i}.name`) ?? '',
      ...(path === undefined ? {} : { path }),
      ...known({
        readRequests: get('rd.reqs'),
        readBytes: get('rd.bytes'),
        readNs: get('rd.times'),
        writeRequests: get('wr.reqs'),
        writeBytes: get('wr.bytes'),
        writeNs: get('wr.times'),
        flushRequests: get('fl.reqs'),
        flushNs: get('fl.times'),
        errors: get('errors'),
        allocationBytes: get('allocation'),
        capacityBytes: get('capacity'),
        physicalBytes: get('physical'),
      }),
    };
  });
}
