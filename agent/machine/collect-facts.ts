import { readFile } from 'node:fs/promises';
import { totalmem } from 'node:os';
import si from 'systeminformation';
import type { NodeFacts } from '../../core/domain/node.js';

const cut = (text: string | number | null | undefined, max: number): string =>
  String(text ?? '')
    .trim()
    .slice(0, max);
const words = (...parts: string[]): string =>
  parts
    .map((p) => cut(p, 200))
    .filter((p) => p !== '')
    .join(' ');

/**
 * Asks systeminformation. It runs lsblk, lscpu and the like and reads much of /sys, so this belongs in a process of
 * its own: see facts-program.
 */
export async function collectFacts(): Promise<NodeFacts> {
  const [uuid, cpu, devices, nics, heat, os] = await Promise.all([
    readFile('/sys/class/dmi/id/product_uuid', 'utf8').catch(() => null),
    si.cpu(),
    si.blockDevices(),
    si.networkInterfaces(),
    si.cpuTemperature(),
    si.osInfo(),
  ]);
  const drives = devices.filter((d) => d.type === 'disk' && d.size > 0);
  const hottest = Math.max(
    ...[heat.main, heat.max, ...heat.cores].filter((c): c is number => Number.isFinite(c)),
  );
  return {
    cpuModel: words(cpu.manufacturer, cpu.brand).slice(0, 200),
    cpuCores: Math.max(1, cpu.cores),
    cpuMHz: Math.max(0, Math.round((cpu.speedMax || cpu.speed || 0) * 1000)),
    memoryBytes: totalmem(),
    drives: drives
      .slice(0, 64)
      .map((d) => ({ name: cut(d.name, 64), model: cut(d.model, 128), sizeBytes: d.size })),
    nics: [nics]
      .flat()
      .filter((n) => !n.internal && !n.virtual)
      .slice(0, 64)
      .map((n) => ({
        name: cut(n.iface, 32),
        mac: cut(n.mac, 32),
        addresses: [n.ip4, n.ip6].filter((a) => a !== '').map((a) => cut(a, 64)),
        mbit: n.speed !== null && n.speed > 0 ? n.speed : null,
        up: n.operstate === 'up',
      })),
    temperatureC: Number.isFinite(hottest) ? hottest : null,
    uuid: uuid === null ? null : cut(uuid, 64),
    os: words(os.distro, os.release).slice(0, 128),
    kernel: cut(os.kernel, 128),
  };
}
