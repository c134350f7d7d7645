import { FlotillaError } from '../../core/domain/error.js';
import { runTool, type Tool } from '../pool/tool.js';
import {
  columns,
  deviceColumns,
  readDevices,
  readGroups,
  readHealth,
  readSignatures,
  type BlockDevice,
  type DriveHealth,
  type Groups,
} from './report.js';

/** What a volume group says is read at once; a drive that hangs, or a node with far too much to do, holds it up, ms. */
const readMs = 60_000;
/** So much of a drive's beginning must be zeros for it to count as empty. */
const headBytes = 1024 * 1024;
/** Making and enlarging writes metadata only, ms. */
const changeMs = 60_000;

/** lvm2, lsblk, wipefs and smartctl as calls. Names reach command lines: the callers make them from ids. */
export class Lvm {
  readonly #run: Tool;

  constructor(run: Tool = runTool) {
    this.#run = run;
  }

  /** All there is on this node, whoever made it. */
  async look(): Promise<Groups> {
    const asked = Object.entries(columns).flatMap(([of, names]) => ['--configreport', of, '-o', names]);
    const format = ['--reportformat', 'json', '--units', 'b', '--nosuffix'];
    const r = await this.#run('lvm', ['fullreport', ...format, ...asked], {
      deadlineMs: readMs,
      brief: true,
    });
    return readGroups(r.stdout);
  }

  async devices(): Promise<readonly BlockDevice[]> {
    const r = await this.#run('lsblk', ['--json', '--bytes', '--paths', '--output', deviceColumns], {
      deadlineMs: readMs,
      brief: true,
    });
    return readDevices(r.stdout);
  }

  /** What is on a drive, by kind; empty: nothing. Read from the drive itself, not from what the kernel remembers. */
  async signatures(device: string): Promise<readonly string[]> {
    const r = await this.#run('wipefs', ['--json', '--no-act', '--', device], { deadlineMs: readMs });
    const found = r.stdout.trim() === '' ? [] : readSignatures(r.stdout);
    if (found.length > 0) return found;
    // Data need not have a name: what is not zeros at its beginning is somebody's.
    const head = await this.#run('cmp', ['--silent', `--bytes=${headBytes}`, '--', device, '/dev/zero'], {
      deadlineMs: readMs,
      codes: [1],
    });
    return head.code === 0 ? [] : ['something without a name'];
  }

  /** Null: the drive does not say. A sleeping drive is not woken. */
  async health(device: string): Promise<DriveHealth | null> {
    // Its exit code is a set of bits about the drive, not about the call.
    const codes = Array.from({ length: 256 }, (_, n) => n);
    const r = await this.#run(
      'smartctl',
      ['--json', '--info', '--health', '--attributes', '--nocheck=standby', '--', device],
      { deadlineMs: readMs, codes },
    );
    return readHealth(r.stdout);
  }

  /** Takes away what is on a drive. */
  wipe(device: string): Promise<void> {
    return this.#do('wipefs', ['--all', '--', device]);
  }

  /** Refuses, by lvm2's own look, a drive with anything on it. */
  async createGroup(group: string, tag: string, devices: readonly string[]): Promise<void> {
    await this.#do('vgcreate', ['--addtag', tag, '--', group, ...devices]);
  }

  extendGroup(group: string, device: string): Promise<void> {
    return this.#do('vgextend', ['--', group, device]);
  }

  createThinPool(group: string, name: string, sizeBytes: number, metadataBytes: number): Promise<void> {
    return this.#do('lvcreate', [
      '--yes',
      '--type=thin-pool',
      `--size=${sizeBytes}b`,
      `--poolmetadatasize=${metadataBytes}b`,
      '--zero=y',
      '--discards=passdown',
      `--name=${name}`,
      '--',
      group,
    ]);
  }

  createThin(group: string, pool: string, name: string, sizeBytes: number, tag: string): Promise<void> {
    return this.#do('lvcreate', [
      '--yes',
      '--thin',
      `--virtualsize=${sizeBytes}b`,
      `--name=${name}`,
      `--addtag=${tag}`,
      '--',
      `${group}/${pool}`,
    ]);
  }

  /** The volume `from` as it is now, as one more thin volume, which appears by itself. */
  snapshotThin(group: string, from: string, name: string, tags: readonly string[]): Promise<void> {
    return this.#do('lvcreate', [
      '--yes',
      '--snapshot',
      '--setactivationskip=n',
      `--name=${name}`,
      ...tags.map((t) => `--addtag=${t}`),
      '--',
      `${group}/${from}`,
    ]);
  }

  untag(group: string, name: string, tag: string): Promise<void> {
    return this.#do('lvchange', [`--deltag=${tag}`, '--', `${group}/${name}`]);
  }

  activate(group: string, name: string): Promise<void> {
    return this.#do('lvchange', ['--activate=y', '--', `${group}/${name}`]);
  }

  extend(group: string, name: string, sizeBytes: number): Promise<void> {
    return this.#do('lvextend', [`--size=${sizeBytes}b`, '--', `${group}/${name}`]);
  }

  extendMetadata(group: string, pool: string, moreBytes: number): Promise<void> {
    return this.#do('lvextend', [`--poolmetadatasize=+${moreBytes}b`, '--', `${group}/${pool}`]);
  }

  remove(group: string, name: string): Promise<void> {
    return this.#do('lvremove', ['--yes', '--', `${group}/${name}`]);
  }

  /** Never killed half-way: between suspending a volume and resuming it a guest's disk would stand still for ever. */
  async #do(tool: string, args: readonly string[]): Promise<void> {
    await this.#run(tool, args, { deadlineMs: changeMs, finish: true });
  }
}

/** What speaks against giving a drive to a pool, in words; null: it is empty. @see safety of data: looked at twice */
export function driveFault(d: BlockDevice, signatures: readonly string[]): string | null {
  if (d.type !== 'disk') return `is no drive but a ${d.type}`;
  if (d.readOnly) return 'can only be read';
  if (d.mounts.length > 0) return `is mounted at ${d.mounts[0]}`;
  if (d.table !== '') return `has a partition table (${d.table})`;
  if (d.children.length > 0) return `is in use: ${d.children[0]?.path ?? ''}`;
  if (d.content !== '') return `has data: ${d.content}`;
  if (signatures.length > 0) return `has data: ${signatures[0]}`;
  return null;
}

/** Such a drive may be wiped when it is told twice: in use, or of a pool, it may never be. */
export const mayWipe = (d: BlockDevice, signatures: readonly string[]): boolean =>
  d.type === 'disk' &&
  !d.readOnly &&
  d.mounts.length === 0 &&
  d.children.every((c) => c.type === 'part' && c.mounts.length === 0 && c.children.length === 0) &&
  // The system's own memory of a drive that was just put in may be empty yet.
  ![d.content, ...signatures].includes('LVM2_member');

export const driveHasData = (device: string, why: string): FlotillaError =>
  new FlotillaError('drive-has-data', `The drive ${device} ${why}`, {
    hint: 'Choose an empty drive; or, if all on it may be lost, say so: --wipe.',
  });
