import type { HeardNode, KeeperState } from '../../../../agent/env.js';
import type { StatusView } from '../../../../agent/status/view.js';
import { policyDefault } from '../../../../core/domain/ha.js';
import type { RadioPayload } from '../../../../core/wire/radio.js';
import { sampleState, sampleVm } from '../radio/samples.js';

export const wallMs = Date.UTC(2026, 10, 23, 1, 2, 3);

export function sampleHeard(node: string, o: Partial<HeardNode> = {}): HeardNode {
  return {
    node,
    beatAgeMs: 400,
    stateAgeMs: 4_000,
    state: sampleState(node, {
      atMs: wallMs - 4_000,
      upSinceMs: wallMs - 5e8,
      hears: { n1: 300, n2: 700, n3: 500 },
    }),
    vms: new Map(),
    agentGone: false,
    connected: true,
    events: [],
    ...o,
  };
}

export function sampleVms(...vms: RadioPayload<'vm'>[]): HeardNode['vms'] {
  return new Map(vms.map((state) => [state.vm, { ageMs: 2_000, state }]));
}

export const vmId = (n: number): string => `0b8e1c9e-7a43-4a8e-9a64-${String(n).padStart(12, '0')}`;

export function runningVm(n: number, o: Partial<RadioPayload<'vm'>> = {}): RadioPayload<'vm'> {
  return sampleVm('n1', vmId(n), {
    name: `web-${n}`,
    atMs: wallMs,
    upSinceMs: wallMs - 7_500_000,
    addresses: ['10.1.0.7', 'fe80::5054:ff:fe12:3456'],
    stats: {
      atMs: wallMs,
      cpuPct: 37,
      memoryUsedBytes: 400e6,
      memoryBytes: 1_024e6,
      diskReadBps: 12_000,
      diskWriteBps: 3_400_000,
      netRxBps: 900,
      netTxBps: 81_000,
    },
    ...o,
  });
}

export const nowMs = 5_000_000;

export function sampleKeeper(o: Partial<KeeperState> = {}): KeeperState {
  return {
    boot: 'b',
    mode: 'run',
    lease: '7',
    createRevision: 12n,
    goodMs: nowMs - 400,
    armed: [vmId(1)],
    watchdog: { kind: 'hardware', timeoutMs: 5_000 },
    armable: { ok: true, waitMs: 7_000 },
    held: [],
    text: '',
    ...o,
  };
}

/** Three well nodes, seen from n1, which runs two VMs. */
export function sampleView(o: Partial<StatusView> = {}): StatusView {
  return {
    node: 'n1',
    clusterName: 'demo',
    version: '0.1.0',
    wallMs,
    nowMs,
    health: [{ part: 'hypervisor', ok: true, text: '' }],
    ledger: { reachable: true, text: '' },
    heard: [
      sampleHeard('n1', {
        vms: sampleVms(
          runningVm(1),
          runningVm(2, { phase: 'stopped', stats: null, upSinceMs: null, addresses: [] }),
        ),
        events: [{ atMs: wallMs - 60_000, level: 'info', subject: 'VM web-1', text: 'runs' }],
      }),
      sampleHeard('n2', { vms: sampleVms(sampleVm('n2', vmId(3))) }),
      sampleHeard('n3', {
        events: [{ atMs: wallMs - 30_000, level: 'warning', subject: 'pool local', text: 'is 91 % full' }],
      }),
    ],
    facts: {
      cpuModel: 'AMD EPYC 7302P',
      cpuCores: 4,
      cpuMHz: 3000,
      memoryBytes: 8 * 2 ** 30,
      drives: [{ name: '/dev/nvme0n1', model: 'SAMSUNG MZVL21T0HCLR', sizeBytes: 1.02e12 }],
      nics: [{ name: 'eno1', mac: '52:54:00:12:34:56', addresses: ['10.0.0.1'], mbit: 10_000, up: true }],
      temperatureC: 43,
      uuid: '4c4c4544-0031-5610-8052-b4c04f4e3332',
      os: 'Debian GNU/Linux 13',
      kernel: '6.12.48',
    },
    refused: {},
    certificate: { fingerprint: 'ab'.repeat(32), expiresMs: wallMs + 800 * 86_400_000 },
    keeper: sampleKeeper(),
    policy: policyDefault,
    asleep: [],
    failovers: 0,
    lockstep: [],
    agent: { startedMs: wallMs - 9e6, rssBytes: 71e6, cpuSeconds: 12.5, lagSeconds: 0.004 },
    ...o,
  };
}
