import type { Hardware, HardwareDisk, HardwareNic } from '../domain/hardware.js';

/** One change to a running machine. */
export type HotStep =
  | { readonly do: 'attach-disk'; readonly disk: HardwareDisk }
  | { readonly do: 'detach-disk'; readonly disk: HardwareDisk }
  | { readonly do: 'attach-nic'; readonly nic: HardwareNic }
  | { readonly do: 'detach-nic'; readonly nic: HardwareNic }
  | { readonly do: 'set-cdrom'; readonly index: number; readonly path: string | null }
  | { readonly do: 'set-cpus'; readonly cpus: number }
  | { readonly do: 'set-memory'; readonly memoryMiB: number }
  | { readonly do: 'set-cpu-tune'; readonly cpuShares: number; readonly cpuQuotaUs: number | null };

export interface HardwareDiff {
  /** In the order to do them: things taken out first, so that a slot or an address is free again. */
  readonly hot: readonly HotStep[];
  /** What only a restart brings, in words for the user. */
  readonly pendingRestart: readonly string[];
}

/** Compares what is wanted with what runs. Equal machines give an empty diff. */
export function diffHardware(want: Hardware, have: Hardware): HardwareDiff {
  const detach: HotStep[] = [];
  const attach: HotStep[] = [];
  const pending: string[] = [];

  const wantDisks = new Map(want.disks.map((d) => [d.id, d]));
  const haveDisks = new Map(have.disks.map((d) => [d.id, d]));
  for (const d of have.disks) {
    if (wantDisks.has(d.id)) continue;
    if (d.bus === 'sata') pending.push(`disk ${d.id} leaves (SATA disks cannot be unplugged while it runs)`);
    else detach.push({ do: 'detach-disk', disk: d });
  }
  for (const d of want.disks) {
    const now = haveDisks.get(d.id);
    if (now === undefined) {
      if (d.bus === 'sata') pending.push(`disk ${d.id} comes (SATA disks cannot be plugged while it runs)`);
      else attach.push({ do: 'attach-disk', disk: d });
    } else if (now.bus !== d.bus) pending.push(`disk ${d.id} moves from ${now.bus} to ${d.bus}`);
  }

  const wantNics = new Map(want.nics.map((n) => [n.mac, n]));
  const haveNics = new Map(have.nics.map((n) => [n.mac, n]));
  for (const n of have.nics) if (!wantNics.has(n.mac)) detach.push({ do: 'detach-nic', nic: n });
  for (const n of want.nics) {
    const now = haveNics.get(n.mac);
    if (now === undefined) attach.push({ do: 'attach-nic', nic: n });
    else if (now.model !== n.model) pending.push(`NIC ${n.mac} changes from ${now.model} to ${n.model}`);
    else if (now.bridge !== n.bridge) {
      detach.push({ do: 'detach-nic', nic: now });
      attach.push({ do: 'attach-nic', nic: n });
    }
  }

  want.cdroms.forEach((path, index) => {
    if (index >= have.cdroms.length) pending.push(`CD drive ${index + 1} comes`);
    else if (have.cdroms[index] !== path) attach.push({ do: 'set-cdrom', index, path });
  });
  if (have.cdroms.length > want.cdroms.length)
    pending.push(`${have.cdroms.length - want.cdroms.length} CD drive(s) leave`);

  if (want.cpus !== have.cpus) {
    if (want.cpus > have.cpus && want.cpus <= have.cpusMax) attach.push({ do: 'set-cpus', cpus: want.cpus });
    else pending.push(`vCPUs change from ${have.cpus} to ${want.cpus}`);
  }
  if (want.memoryMiB !== have.memoryMiB) {
    if (want.memoryMiB <= have.memoryMaxMiB) attach.push({ do: 'set-memory', memoryMiB: want.memoryMiB });
    else pending.push(`memory changes from ${have.memoryMiB} MiB to ${want.memoryMiB} MiB`);
  }
  if (want.cpuShares !== have.cpuShares || otherQuota(want.cpuQuotaUs, have.cpuQuotaUs))
    attach.push({ do: 'set-cpu-tune', cpuShares: want.cpuShares, cpuQuotaUs: want.cpuQuotaUs });
  if (want.firmware !== have.firmware)
    pending.push(`firmware changes from ${have.firmware} to ${want.firmware}`);
  if (want.boot.join() !== have.boot.join())
    pending.push(`boot order changes from ${have.boot.join(', ')} to ${want.boot.join(', ')}`);
  if (want.watchdog !== have.watchdog)
    pending.push(want.watchdog ? 'the virtual watchdog comes' : 'the virtual watchdog leaves');
  if ((want.seed === null) !== (have.seed === null))
    pending.push(want.seed === null ? 'cloud-init data leaves' : 'cloud-init data comes');
  return { hot: [...detach, ...attach], pendingRestart: pending };
}

/** A node's speed is measured, and never twice the same: a tenth is no difference. */
function otherQuota(a: number | null, b: number | null): boolean {
  return a === null || b === null ? a !== b : Math.abs(a - b) > b / 10;
}
