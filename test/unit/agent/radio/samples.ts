import type { RadioPayload } from '../../../../core/wire/radio.js';

/** A node's state as an agent would say it. */
export function sampleState(node: string, o: Partial<RadioPayload<'state'>> = {}): RadioPayload<'state'> {
  return {
    node,
    boot: 'boot-1',
    seq: 1,
    version: '0.1.0',
    atMs: 1_000_000,
    upSinceMs: 0,
    accel: 'tcg',
    qemu: '10.0.2',
    libvirt: '11.3.0',
    cpus: 4,
    cpuUsedPct: 12,
    memoryBytes: 8 * 2 ** 30,
    memoryUsedBytes: 3 * 2 ** 30,
    loadAvg1: 0.4,
    pools: [{ pool: 'local', totalBytes: 100e9, freeBytes: 60e9, ok: true, text: '' }],
    health: [{ part: 'hypervisor', ok: true, text: '' }],
    hears: {},
    refused: {},
    facts: null,
    keeper: null,
    ...o,
  };
}

export function sampleVm(node: string, vm: string, o: Partial<RadioPayload<'vm'>> = {}): RadioPayload<'vm'> {
  return {
    vm,
    name: `vm-${vm.slice(0, 4)}`,
    node,
    boot: 'boot-1',
    seq: 1,
    atMs: 1_000_000,
    phase: 'running',
    reason: '',
    generation: 1,
    pendingRestart: [],
    upSinceMs: 0,
    guestAgent: false,
    addresses: [],
    hostname: null,
    filesystems: [],
    stats: null,
    consoles: { serial: null, vnc: null },
    error: null,
    ha: { state: 'off', text: '', standby: null },
    ...o,
  };
}
