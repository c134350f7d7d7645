import { FlotillaError } from '../../core/domain/error.js';
import type { Hardware, HardwareDisk, HardwareNic } from '../../core/domain/hardware.js';
import type { Accel } from '../../core/domain/node.js';

/** TCG's translation cache, MiB, as other VMs have it. */
const tbCacheMiB = 128;
/** The same on both nodes whatever version their QEMU is: what a machine is made of must be. */
const machineType = 'pc-q35-11.1';

/** The parts of a machine that a pair talks about, by their names in QEMU. */
export const names = {
  /** The disk as the guest has it: a mirror of one or two. */
  disk: 'colo-disk0',
  nic: 'hn0',
  /** Rewrites a twin's sequence numbers to its primary's; stays for the connections that it knows. */
  rewriter: 'rew0',
  /** The twin's own disk, below what it has written since the last checkpoint. */
  base: 'parent0',
  overlays: 'childs0',
  /** What the primary's guest receives, on its way to the twin's guest, and what that one answers, on its way back. */
  input: { chardev: 'red0', filter: 'f1' },
  output: { chardev: 'red1', filter: 'f2' },
  tls: 'twin-tls',
  export: 'disk',
} as const;

/** TCP ports of a twin. All four channels are opened by its primary, as one node to another, by TLS. */
export interface TwinPorts {
  readonly memory: number;
  readonly disk: number;
  readonly input: number;
  readonly output: number;
}

export interface TwinPlan {
  /** Where it listens. */
  readonly address: string;
  readonly ports: TwinPorts;
  /** Files for what it writes and overwrites between two checkpoints. */
  readonly active: string;
  readonly hidden: string;
}

export interface MachinePlan {
  readonly vm: string;
  readonly hardware: Hardware;
  readonly accel: Accel;
  readonly tap: string;
  readonly qmp: string;
  readonly serial: string;
  readonly serialLog: string;
  readonly vnc: string;
  /** Where QEMU has its BIOS. */
  readonly firmware: string;
  /** The node's certificates as QEMU wants them. */
  readonly tlsDir: string;
  /** Null: it begins as an owner's. */
  readonly twin: TwinPlan | null;
}

/** The one disk and the one NIC that a machine in lockstep has. @throws FlotillaError `unsupported`: it is another machine */
export function diskAndNic(hardware: Hardware): { readonly disk: HardwareDisk; readonly nic: HardwareNic } {
  const [disk, ...disks] = hardware.disks;
  const [nic, ...nics] = hardware.nics;
  const not =
    disk === undefined || disks.length > 0 || disk.bus !== 'virtio' || disk.format !== 'raw'
      ? 'exactly one disk, virtio and raw'
      : nic === undefined || nics.length > 0 || nic.model !== 'virtio'
        ? 'exactly one NIC, virtio'
        : hardware.firmware !== 'bios'
          ? 'a BIOS, not UEFI'
          : null;
  if (not !== null || disk === undefined || nic === undefined) {
    throw new FlotillaError('unsupported', `A VM in lockstep has ${not ?? ''}`, {
      hint: 'Change its hardware, or its protection level to restart.',
    });
  }
  return { disk, nic };
}

/** The words of one QEMU, without the program itself. It is born standing still, and stays when its guest has shut down. */
export function commandLine(p: MachinePlan): string[] {
  const { hardware: h, twin } = p;
  const { disk, nic } = diskAndNic(h);
  const kvm = p.accel === 'kvm';
  const args = [
    ...['-name', `guest=${p.vm},debug-threads=on`, '-uuid', p.vm],
    ...['-S', '-no-shutdown', '-nodefaults', '-no-user-config', '-display', 'none', '-L', p.firmware],
    ...['-machine', machineType, '-accel', kvm ? 'kvm' : `tcg,tb-size=${tbCacheMiB}`],
    ...['-cpu', kvm ? 'host' : 'qemu64', '-smp', String(h.cpus), '-m', `${h.memoryMaxMiB}M`],
    ...['-rtc', 'base=utc', '-boot', 'strict=on'],
    ...['-sandbox', 'on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny'],
    ...['-chardev', `socket,id=qmp,path=${path(p.qmp)},server=on,wait=off`],
    ...['-object', 'monitor-qmp,id=agent,chardev=qmp'],
    '-chardev',
    `socket,id=serial,path=${path(p.serial)},server=on,wait=off,logfile=${path(p.serialLog)},logappend=on`,
    ...['-device', 'isa-serial,chardev=serial', '-vnc', `unix:${path(p.vnc)}`, '-device', 'VGA,addr=0x1'],
    ...['-netdev', `tap,id=${names.nic},ifname=${p.tap},script=no,downscript=no,vhost=off`],
  ];
  let order = 0;
  const bootOf = new Map<string, number>();
  for (const group of h.boot) {
    if (group === 'disk') bootOf.set('disk', ++order);
    if (group === 'cdrom') h.cdroms.forEach((_, i) => bootOf.set(`cd${i}`, ++order));
  }
  const boot = (key: string): string => (bootOf.has(key) ? `,bootindex=${bootOf.get(key)}` : '');
  // Before the devices that use them, and in an order of their own: a filter holds its NIC.
  if (twin !== null) {
    args.push('-object', JSON.stringify(tlsObject(names.tls, 'server', p.tlsDir)));
    for (const [{ chardev }, port] of [
      [names.input, twin.ports.input],
      [names.output, twin.ports.output],
    ] as const) {
      const where = `host=${twin.address},port=${port},ipv4=on`;
      args.push('-chardev', `socket,id=${chardev},${where},server=on,wait=off,tls-creds=${names.tls}`);
    }
    const of = { netdev: names.nic, vnet_hdr_support: true };
    const filters = [
      { 'qom-type': 'filter-redirector', id: names.input.filter, queue: 'tx', indev: names.input.chardev },
      { 'qom-type': 'filter-redirector', id: names.output.filter, queue: 'rx', outdev: names.output.chardev },
      { 'qom-type': 'filter-rewriter', id: names.rewriter, queue: 'all' },
    ];
    for (const f of filters) args.push('-object', JSON.stringify({ ...f, ...of }));
  }
  for (const node of blockNodes(disk, twin)) args.push('-blockdev', JSON.stringify(node));
  args.push('-device', `virtio-blk-pci,id=disk0,drive=${names.disk},addr=0x2${boot('disk')}`);
  args.push('-device', `virtio-net-pci,id=nic0,netdev=${names.nic},mac=${nic.mac},romfile=,addr=0x3`);
  [...h.cdroms, h.seed].forEach((file, i) => {
    // The seed has a place of its own behind the drives that a person sees.
    if (file === null && i === h.cdroms.length) return;
    const node = `cd${i}`;
    if (file !== null) {
      const image = { driver: 'file', filename: file, 'read-only': true };
      args.push(
        '-blockdev',
        JSON.stringify({ driver: 'raw', 'node-name': node, 'read-only': true, file: image }),
      );
    }
    args.push(
      '-device',
      `ide-cd,bus=ide.${i},id=cd${i}${file === null ? '' : `,drive=${node}`}${boot(node)}`,
    );
  });
  // A guest with the driver says so when it panics; what it does then is its own affair.
  args.push('-device', 'pvpanic-pci,addr=0x4', '-action', 'panic=none');
  if (twin !== null) args.push('-incoming', 'defer');
  return args;
}

function blockNodes(disk: HardwareDisk, twin: TwinPlan | null): object[] {
  const raw = (name: string): object => ({
    driver: 'raw',
    'node-name': name,
    cache: { direct: true },
    discard: 'unmap',
    file: {
      driver: disk.path.startsWith('/dev/') ? 'host_device' : 'file',
      filename: disk.path,
      discard: 'unmap',
    },
  });
  const whole = (child: unknown): object => ({
    driver: 'quorum',
    'node-name': names.disk,
    'read-pattern': 'fifo',
    'vote-threshold': 1,
    children: [child],
  });
  if (twin === null) return [raw('own0'), whole('own0')];
  const layer = (filename: string, backing: unknown): object => ({
    driver: 'qcow2',
    file: { driver: 'file', filename },
    backing,
  });
  return [
    raw(names.base),
    {
      driver: 'replication',
      'node-name': names.overlays,
      mode: 'secondary',
      'top-id': names.disk,
      file: layer(twin.active, layer(twin.hidden, names.base)),
    },
    whole(names.overlays),
  ];
}

/** The node's certificate for one end of a channel; who is at the other one has to have one, too. */
export const tlsObject = (
  id: string,
  endpoint: 'server' | 'client',
  dir: string,
): Record<string, unknown> => ({
  'qom-type': 'tls-creds-x509',
  id,
  endpoint,
  dir,
  'verify-peer': true,
});

/** A path within QEMU's comma-separated words. */
const path = (p: string): string => p.replaceAll(',', ',,');
