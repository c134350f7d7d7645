import { randomUUID } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import type { LabDaemon } from './daemon.js';

/** What the boot sector below does beside printing a dot per timer tick and echoing what it reads. */
export const WRITES_DISK = 1;
export const ARMS_WATCHDOG = 2;
export const DIRTIES_MEMORY = 4;

/*
 * A guest of 512 bytes, so that a domain does something observable within a second of its start, also without
 * KVM. 16-bit code at 0x7c00:
 *
 *   start: set up segments and stack
 *          if mode & 2: out 0x443, 0x0e           the ib700 watchdog bites in 2 s
 *   tick:  hlt                                     18 times a second
 *          if the serial port has a byte: echo it
 *          write '.' to the serial port
 *          if mode & 4: fill 64 KiB to 576 KiB with a number that is one more each time
 *          if mode & 1: int 13h AH=43h, 64 sectors to the second disk, next time 64 further on
 *          jmp tick
 */
const CODE =
  'fa31c08ed88ec08ed0bc007cfbf606fd7d027406ba4304b00eeef4bafd03eca8017405baf803eceebaf803b02eee' +
  'f606fd7d04741efcff06f87dbb00108ec331ffb90080a1f87df3ab81c3001081fb009072eaf606fd7d0174c0b800' +
  '43b281be707ccd1372b48306787c40ebad8d74001000400000800000';
const MODE_AT = 0x1fd;

/** The boot disk, 1 MiB. */
export function bootDisk(mode: number): Buffer {
  const disk = Buffer.alloc(1 << 20);
  disk.write(CODE, 'hex');
  disk[MODE_AT] = mode;
  disk.write('55aa', 510, 'hex');
  return disk;
}

export interface GuestOptions {
  readonly name: string;
  readonly uuid?: string;
  readonly mode?: number;
  /** more XML inside `<devices>` */
  readonly devices?: string;
  /** path of the second disk; default one of 16 MiB beside the first */
  readonly secondDisk?: string;
}

/** Puts the disks (the firmware finds only those in the boot order) of a boot-sector guest into a daemon's file system and gives its domain XML. */
export function tinyGuest(
  daemon: LabDaemon,
  { name, uuid = randomUUID(), mode = 0, ...o }: GuestOptions,
): { uuid: string; xml: string } {
  const boot = `/tmp/${name}-boot.img`;
  const data = o.secondDisk ?? `/tmp/${name}-data.img`;
  writeFileSync(`${daemon.root}${boot}`, bootDisk(mode));
  if (o.secondDisk === undefined) writeFileSync(`${daemon.root}${data}`, Buffer.alloc(16 << 20));
  return {
    uuid,
    xml: `
<domain type='qemu'>
  <name>${name}</name>
  <uuid>${uuid}</uuid>
  <memory unit='KiB'>131072</memory>
  <currentMemory unit='KiB'>65536</currentMemory>
  <vcpu current='1'>2</vcpu>
  <os><type arch='x86_64' machine='pc'>hvm</type></os>
  <features><acpi/></features>
  <cpu mode='custom' match='exact'><model>qemu64</model></cpu>
  <on_poweroff>destroy</on_poweroff><on_reboot>restart</on_reboot><on_crash>destroy</on_crash>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='${boot}'/><target dev='vda' bus='virtio'/><boot order='1'/></disk>
    <disk type='file' device='disk'><driver name='qemu' type='raw' error_policy='stop'/><source file='${data}'/><target dev='vdb' bus='virtio'/><boot order='2'/></disk>
    <disk type='file' device='cdrom'><driver name='qemu' type='raw'/><target dev='hdc' bus='ide'/><readonly/></disk>
    <serial type='pty'><target port='0'/></serial>
    <console type='pty'><target type='serial' port='0'/></console>
    <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
    <watchdog model='ib700' action='none'/>
    <video><model type='vga' vram='4096'/></video>
    <memballoon model='virtio'><stats period='1'/></memballoon>
    ${o.devices ?? ''}
  </devices>
</domain>`,
  };
}

/** A Debian with the guest agent, from the built image, on a throw-away layer. */
export async function debianGuest(daemon: LabDaemon, name: string): Promise<{ uuid: string; xml: string }> {
  const uuid = randomUUID();
  const disk = `/tmp/${name}.qcow2`;
  const image = '/srv/images/debian-13-guest.qcow2';
  await daemon.exec('qemu-img', 'create', '-q', '-f', 'qcow2', '-F', 'qcow2', '-b', image, disk);
  return {
    uuid,
    xml: `
<domain type='qemu'>
  <name>${name}</name>
  <uuid>${uuid}</uuid>
  <memory unit='MiB'>512</memory>
  <currentMemory unit='MiB'>512</currentMemory>
  <vcpu>1</vcpu>
  <os><type arch='x86_64' machine='q35'>hvm</type><boot dev='hd'/></os>
  <features><acpi/></features>
  <cpu mode='custom' match='exact'><model>qemu64</model></cpu>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <disk type='file' device='disk'><driver name='qemu' type='qcow2' cache='unsafe'/><source file='${disk}'/><target dev='vda' bus='virtio'/></disk>
    <interface type='user'><model type='virtio'/></interface>
    <serial type='pty'><log file='/tmp/${name}.log' append='on'/><target port='0'/></serial>
    <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
    <memballoon model='virtio'><stats period='1'/></memballoon>
    <rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>
  </devices>
</domain>`,
  };
}
