import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { copyFileSync, existsSync, readdirSync, readFileSync } from 'node:fs';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { FencePrograms } from '../../../../agent/fence/fence-programs.js';
import { until } from '../ledger/real-etcd.js';

/** What may be done with a node's power behind a BMC: `stuck` says yes to everything and does nothing. */
export type Chassis = 'works' | 'stuck';

/** Memory that is there inside and outside of the appliance's root. */
const memoryDir = '/dev/shm';

/** The fence agents of the appliance, run from its root, with every start of ipmitool written down. */
export class Programs {
  readonly dir: string;
  readonly fence: FencePrograms;

  static async make(): Promise<Programs> {
    return new Programs(await mkdtemp(path.join(memoryDir, 'flotilla-test-')));
  }

  private constructor(dir: string) {
    this.dir = dir;
    const root = path.resolve('build/root');
    if (!existsSync(`${root}/usr/sbin/fence_ipmilan`))
      throw new Error('no fence agents here: images/build root makes build/root, which has them');
    const into = [
      'set -e',
      `mount --rbind /dev ${root}/dev`,
      `mount -t proc proc ${root}/proc`,
      // Hard links of the root lead to the newest files of ours only after a build of it.
      `mount --bind images/rootfs/usr/lib/flotilla ${root}/usr/lib/flotilla`,
      `mount --bind ${dir}/ipmitool ${root}/usr/bin/ipmitool`,
      `exec chroot ${root} "$@"`,
    ];
    this.fence = new FencePrograms({ prefix: ['unshare', '--mount', 'sh', '-c', into.join('\n'), 'sh'] });
    copyFileSync(`${root}/usr/bin/ipmitool`, `${dir}/ipmitool.real`);
  }

  async start(): Promise<this> {
    const recorder = [
      '#!/bin/sh',
      `tr '\\0' ' ' </proc/$$/cmdline >>${this.dir}/starts`,
      `tr '\\0' ' ' </proc/$$/environ >>${this.dir}/starts`,
      `exec ${this.dir}/ipmitool.real "$@"`,
    ];
    await writeFile(`${this.dir}/starts`, '');
    await writeFile(`${this.dir}/ipmitool`, recorder.join('\n') + '\n', { mode: 0o755 });
    return this;
  }

  /** Command line and environment of each ipmitool as it was started, before it could hide anything. */
  starts(): Promise<string> {
    return readFile(`${this.dir}/starts`, 'utf8');
  }

  stop(): Promise<void> {
    return rm(this.dir, { recursive: true, force: true });
  }
}

/** A BMC: OpenIPMI's simulator, whose chassis is a file. */
export class IpmiBmc {
  readonly dir: string;
  readonly port: number;
  #process: ChildProcess | null = null;
  #log = '';

  constructor(o: { dir: string; port: number }) {
    this.dir = o.dir;
    this.port = o.port;
  }

  async start(o: { user: string; password: string }): Promise<void> {
    const write = (name: string, lines: string[], mode = 0o600) =>
      writeFile(`${this.dir}/${name}`, lines.join('\n') + '\n', { mode });
    await write('chassis', chassisScript(this.dir), 0o755);
    await write('lan.conf', [
      'name "node"',
      'set_working_mc 0x20',
      `chassis_control "${this.dir}/chassis"`,
      'startlan 1',
      `addr 127.0.0.1 ${this.port}`,
      'priv_limit admin',
      'allowed_auths_operator none md2 md5 straight',
      'allowed_auths_admin none md2 md5 straight',
      'guid a123456789abcdefa123456789abcdef',
      'endlan',
      `user 2 true "${o.user}" "${o.password}" operator 10 none md2 md5 straight`,
    ]);
    await write('sim.emu', [
      'mc_setbmc 0x20',
      'mc_add 0x20 0 no-device-sdrs 0x23 9 8 0x9f 0x1291 0xf02 persist_sdr',
      'sel_enable 0x20 1000 0x0a',
      'mc_enable 0x20',
    ]);
    await this.set('works', 'on');
    const args = ['-n', '-c', `${this.dir}/lan.conf`, '-f', `${this.dir}/sim.emu`, '-s', `${this.dir}/state`];
    const p = spawn('ipmi_sim', args, { stdio: ['ignore', 'pipe', 'pipe'] });
    this.#process = p;
    process.once('exit', () => p.kill('SIGKILL'));
    for (const s of [p.stdout, p.stderr]) s.on('data', (d: Buffer) => (this.#log += d.toString()));
    await until(`ipmi_sim to listen; it said: ${this.#log}`, () => udpPorts().has(this.port));
  }

  async set(chassis: Chassis, power: 'on' | 'off'): Promise<void> {
    await writeFile(`${this.dir}/mode`, chassis);
    await writeFile(`${this.dir}/power`, power === 'on' ? '1\n' : '0\n');
    await writeFile(`${this.dir}/calls`, '');
  }

  async isOn(): Promise<boolean> {
    return (await readFile(`${this.dir}/power`, 'utf8')).trim() === '1';
  }

  /** What the chassis was told, e.g. `set power 0`. */
  async calls(): Promise<string[]> {
    return (await readFile(`${this.dir}/calls`, 'utf8')).split('\n').filter((l) => l !== '');
  }

  signal(name: 'SIGSTOP' | 'SIGCONT'): void {
    this.#process?.kill(name);
  }

  async stop(): Promise<void> {
    const p = this.#process;
    if (p === null || p.exitCode !== null) return;
    p.kill('SIGKILL');
    await once(p, 'exit');
  }
}

const chassisScript = (dir: string): string[] => [
  '#!/bin/sh',
  `cd ${dir}`,
  'echo "$*" >>calls',
  'case "$*" in',
  '  \'get power\') echo "power:$(cat power)" ;;',
  '  \'set power \'[01]) [ "$(cat mode)" = stuck ] || echo "$3" >power ;;',
  '  *) exit 1 ;;',
  'esac',
];

function udpPorts(): Set<number> {
  const rows = readFileSync('/proc/net/udp', 'utf8').split('\n').slice(1);
  return new Set(rows.map((r) => parseInt(r.trim().split(/\s+/)[1]?.split(':')[1] ?? '', 16)));
}

/** Processes below this one, with what they were started with and their environment. */
export function descendants(): { pid: number; text: string }[] {
  const parents = new Map<number, number>();
  for (const name of readdirSync('/proc').filter((n) => /^\d+$/.test(n))) {
    const stat = read(`/proc/${name}/stat`);
    parents.set(Number(name), Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[1]));
  }
  const isBelow = (pid: number): boolean => {
    const parent = parents.get(pid);
    return parent !== undefined && (parent === process.pid || (parent > 1 && isBelow(parent)));
  };
  return [...parents.keys()]
    .filter(isBelow)
    .map((pid) => ({ pid, text: read(`/proc/${pid}/cmdline`) + read(`/proc/${pid}/environ`) }));
}

export const isAlive = (pid: number): boolean => existsSync(`/proc/${pid}`);

function read(file: string): string {
  try {
    return readFileSync(file, 'utf8').replaceAll('\0', ' ');
  } catch {
    // It ended while we looked.
    return '';
  }
}
