import { cpuTuneOf } from '../../core/decide/bundle.js';
import { cpuSharesDefault } from '../../core/domain/service-class.js';
import { FlotillaError } from '../../core/domain/error.js';
import { cpusMaxFor, type Hardware } from '../../core/domain/hardware.js';
import { deviceId, isReplicated, type Disk } from '../../core/domain/disk.js';
import { devicePath } from '../../core/domain/replica.js';
import type { VmSpec } from '../../core/domain/vm.js';
import type { Volumes } from '../env.js';
import type { Snapshot } from '../snapshot.js';

/** Where machines of this node find a disk; null: its pool or its pair is not in the ledger. */
export function pathOf(disk: Disk, s: Snapshot, volumes: Pick<Volumes, 'diskPath'>): string | null {
  const pool = s.pools.get(disk.pool)?.value;
  if (pool === undefined) return null;
  if (!isReplicated(disk)) return volumes.diskPath(disk, pool);
  const volume = s.replicas.get(disk.vm)?.value.volumes.find((v) => v.disk === disk.id);
  return volume === undefined ? null : devicePath(volume.minor);
}

/** Disks of a VM that its machine has, whatever it calls them: those whose volumes it uses. */
export function disksIn(
  disks: readonly Disk[],
  hardware: Pick<Hardware, 'disks'>,
  s: Snapshot,
  volumes: Pick<Volumes, 'diskPath'>,
): string[] {
  const used = new Set(hardware.disks.map((d) => d.path));
  return disks.filter((d) => used.has(pathOf(d, s, volumes) ?? '')).map((d) => d.id);
}

/**
 * The machine a spec asks for, with this node's paths and bridges.
 *
 * @param cpu - what one CPU of this node does; null: VMs are not weighed and capped here
 * @param seed - path of the cloud-init seed; null where the spec has none
 * @throws FlotillaError `not-found`: a disk, pool, image or network that the spec names is not in the ledger;
 *   `wrong-state`: an image that is not ready
 */
export function wantedHardware(
  spec: VmSpec,
  s: Snapshot,
  volumes: Volumes,
  seed: string | null,
  cpu: { readonly cpuMHz: number } | null,
): Hardware {
  const missing = (what: string): FlotillaError =>
    new FlotillaError('not-found', `VM "${spec.name}": ${what} is not in the ledger`, {
      hint: 'Edit the VM so that it no longer names it, or make it again.',
    });
  const vapp = spec.vapp === undefined ? undefined : s.vapps.get(spec.vapp.id)?.value;
  const tune =
    cpu === null ? { shares: cpuSharesDefault, quotaUs: null } : cpuTuneOf(spec, vapp, s.specs, cpu.cpuMHz);
  return {
    cpus: spec.cpus,
    cpusMax: cpusMaxFor(spec.cpus),
    memoryMiB: spec.memoryMiB,
    memoryMaxMiB: spec.memoryMiB,
    firmware: spec.firmware,
    boot: spec.boot,
    disks: spec.disks.flatMap(({ disk: id, bus, detached }) => {
      if (detached === true) return [];
      const disk = s.disks.get(id)?.value;
      if (disk === undefined) throw missing(`disk ${id}`);
      const path = pathOf(disk, s, volumes);
      if (path === null) throw missing(`the pool or the pair of disk ${disk.name}`);
      return { id: deviceId(disk), bus, path, format: disk.format };
    }),
    cdroms: spec.cdroms.map(({ image: id }) => {
      if (id === null) return null;
      const image = s.images.get(id)?.value;
      const pool = image && s.pools.get(image.pool)?.value;
      if (image === undefined || pool === undefined) throw missing(`image ${id}`);
      if (image.state !== 'ready') {
        throw new FlotillaError('wrong-state', `Image "${image.name}" is ${image.state}, not ready`, {
          hint: 'Wait for its import, or take the image out of the CD drive.',
        });
      }
      return volumes.imagePath(image, pool);
    }),
    nics: spec.nics.map((n) => {
      const network = s.networks.get(n.network)?.value;
      if (network === undefined) throw missing(`network ${n.network}`);
      return { id: n.id, mac: n.mac, bridge: network.bridge, model: n.model };
    }),
    watchdog: spec.ha.onHang === 'reset',
    cpuShares: tune.shares,
    cpuQuotaUs: tune.quotaUs,
    seed,
  };
}
