import { spawn } from 'node:child_process';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import path from 'node:path';

/** A PC that works has printed long before: firmware and boot sector take 0.3 s under KVM, 1 to 2 s emulated. */
export const probeTimeoutMs = 5_000;
/** What the boot sector says on the serial port. */
const marker = 'FLOTILLA BOOT PROBE';
/** QEMU's words kept for the journal. */
const wordsMax = 2_000;

/**
 * A boot sector: prints {@link marker} on the first serial port, then halts. Real mode at 0x7c00.
 *
 *     31 c0     xor ax,ax        ac      next: lodsb
 *     8e d8     mov ds,ax        84 c0         test al,al
 *     fc        cld              74 03         jz stop
 *     be 17 7c  mov si,0x7c17    ee            out dx,al
 *     ba f8 03  mov dx,0x3f8     eb f8         jmp next
 *                                fa      stop: cli
 *                                f4            hlt
 *                                eb fd         jmp stop+1
 */
export function bootSector(): Uint8Array {
  const code = [
    0x31, 0xc0, 0x8e, 0xd8, 0xfc, 0xbe, 0x17, 0x7c, 0xba, 0xf8, 0x03, 0xac, 0x84, 0xc0, 0x74, 0x03, 0xee,
    0xeb, 0xf8, 0xfa, 0xf4, 0xeb, 0xfd,
  ];
  const sector = Buffer.alloc(512);
  sector.set(code);
  sector.write(`${marker}\n\0`, code.length, 'latin1');
  sector.set([0x55, 0xaa], 510);
  return sector;
}

/**
 * Boots a PC of one sector with that accelerator. That `/dev/kvm` opens proves nothing: in many a rented VM it does
 * and the first instruction of a guest never runs.
 *
 * @param o.qemu - QEMU's program and leading arguments
 * @param o.dir - where a directory for the sector may be made
 * @returns whether the guest's own code ran, and QEMU's words where it did not
 */
export async function bootProbe(o: {
  qemu: readonly string[];
  accel: 'kvm' | 'tcg';
  dir: string;
  timeoutMs?: number;
}): Promise<{ ok: boolean; text: string }> {
  const dir = await mkdtemp(path.join(o.dir, 'boot-probe-'));
  try {
    const image = path.join(dir, 'sector.img');
    await writeFile(image, bootSector());
    return await boot(o.qemu, o.accel, image, o.timeoutMs ?? probeTimeoutMs);
  } finally {
    await rm(dir, { recursive: true, force: true });
  }
}

function boot(
  qemu: readonly string[],
  accel: string,
  image: string,
  timeoutMs: number,
): Promise<{ ok: boolean; text: string }> {
  const [program = '', ...leading] = qemu;
  const args = [
    '-accel',
    accel,
    '-machine',
    'pc',
    '-m',
    '16',
    '-nodefaults',
    '-no-user-config',
    '-no-reboot',
  ];
  const io = [
    '-display',
    'none',
    '-serial',
    'stdio',
    '-drive',
    `file=${image},format=raw,if=ide,readonly=off,snapshot=on`,
  ];
  return new Promise((resolve) => {
    const p = spawn(program, [...leading, ...args, ...io], { stdio: ['ignore', 'pipe', 'pipe'] });
    let out = '';
    let words = '';
    let late = false;
    const timer = setTimeout(() => {
      late = true;
      p.kill('SIGKILL');
    }, timeoutMs);
    p.stdout.on('data', (d: Buffer) => {
      out = (out + d.toString('latin1')).slice(-wordsMax);
      if (out.includes(marker)) p.kill('SIGKILL');
    });
    p.stderr.on('data', (d: Buffer) => (words = (words + d.toString('utf8')).slice(-wordsMax)));
    p.on('error', (error) => (words = error.message));
    p.on('close', () => {
      clearTimeout(timer);
      const ok = out.includes(marker);
      const silent = late ? `the guest said nothing for ${timeoutMs} ms` : 'QEMU ended';
      resolve({ ok, text: ok ? '' : [silent, words.trim()].filter((w) => w !== '').join('; ') });
    });
  });
}
