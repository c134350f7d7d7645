// QEMU of the appliance, on whatever this machine is: its own loader and libraries come with it.
import { Buffer } from 'node:buffer';
import { spawn } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';

/** @param {string} root - the appliance @returns {[string, string[]]} a program and its first arguments */
export function qemuOf(root) {
  const lib = path.join(root, 'usr/lib/x86_64-linux-gnu');
  const share = path.join(root, 'usr/share');
  return [
    path.join(root, 'usr/lib64/ld-linux-x86-64.so.2'),
    [
      '--library-path',
      lib,
      path.join(root, 'usr/bin/qemu-system-x86_64'),
      '-L',
      path.join(share, 'qemu'),
      '-L',
      path.join(share, 'seabios'),
    ],
  ];
}

/** A boot sector that ends its QEMU with exit code 33: mov dx,0xf4; mov al,0x10; out dx,al; hlt. */
const sector = Buffer.alloc(512);
sector.set([0xba, 0xf4, 0x00, 0xb0, 0x10, 0xee, 0xf4]);
sector.set([0x55, 0xaa], 510);

/** A machine that works has ended long before, ms. */
const probeMs = 5_000;

/**
 * Whether KVM runs a guest. That /dev/kvm opens proves nothing: in many a rented machine it does, and no guest ever runs.
 *
 * @param {string} root
 */
export async function kvmWorks(root) {
  if (!existsSync('/dev/kvm')) return false;
  const dir = mkdtempSync(path.join(tmpdir(), 'flotilla-kvm-'));
  writeFileSync(path.join(dir, 'sector'), sector);
  const [file, first] = qemuOf(root);
  const args = ['-accel', 'kvm', '-m', '16', '-nodefaults', '-no-user-config', '-display', 'none'];
  const devices = ['-device', 'isa-debug-exit', '-drive', `file=${dir}/sector,format=raw,if=ide,snapshot=on`];
  const child = spawn(file, [...first, ...args, ...devices], { stdio: 'ignore' });
  const timer = setTimeout(() => child.kill('SIGKILL'), probeMs);
  const code = await new Promise((resolve) => {
    child.on('error', resolve);
    child.on('close', resolve);
  });
  clearTimeout(timer);
  rmSync(dir, { recursive: true });
  return code === 33;
}
