import { spawn, type ChildProcess } from 'node:child_process';
import { mkdir, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { waitFor, type Lab } from './harness.js';

const user = 'flotilla';
const password = 'of-the-lab';
const port = 6230;

/** A node's BMC: OpenIPMI's simulator on the nodes' network, whose power switch is `scripts/lab kill` and `boot`. */
export class LabBmc {
  readonly #lab: Lab;
  readonly #node: string;
  #process: ChildProcess | null = null;
  #log = '';

  constructor(lab: Lab, node: string) {
    this.#lab = lab;
    this.#node = node;
  }

  /** As the API takes it. */
  get device(): Record<string, unknown> {
    return { kind: 'ipmi', address: `${this.#lab.net}.254`, port, user, password, cipher: 3 };
  }

  async start(): Promise<void> {
    const lab = this.#lab;
    const dir = path.join(lab.dir, 'bmc');
    await mkdir(dir, { recursive: true });
    const write = (name: string, lines: string[], mode = 0o600): Promise<void> =>
      writeFile(path.join(dir, name), lines.join('\n') + '\n', { mode });
    const command = (verb: string): string =>
      `${process.execPath} ${path.resolve('scripts/lab.mjs')} ${verb} ${this.#node}`;
    // The switch is in the fabric's network, the lab is built from here.
    const boot = `nsenter --net=/proc/${process.pid}/ns/net ${command('boot')}`;
    const env = `LAB_ID=${lab.id} LAB_NET=${lab.net} LAB_GUEST_NET=${lab.guestNet} LAB_TIMING=${lab.timing}`;
    await write('power', ['1']);
    await write(
      'chassis',
      [
        '#!/bin/sh',
        `cd ${dir}`,
        'case "$*" in',
        `  'get power') echo "power:$(cat power)" ;;`,
        // Off is said only of a node that is.
        `  'set power 0') ${env} ${command('kill')} >kill.log 2>&1 && echo 0 >power ;;`,
        `  'set power 1') echo 1 >power; ${env} setsid ${boot} >boot.log 2>&1 & ;;`,
        '  *) exit 1 ;;',
        'esac',
      ],
      0o755,
    );
    await write('lan.conf', [
      `name "${this.#node}"`,
      'set_working_mc 0x20',
      `chassis_control "${dir}/chassis"`,
      'startlan 1',
      `addr ${lab.net}.254 ${port}`,
      'priv_limit admin',
      'allowed_auths_operator none md2 md5 straight',
      'allowed_auths_admin none md2 md5 straight',
      'guid a123456789abcdefa123456789abcdef',
      'endlan',
      `user 2 true "${user}" "${password}" operator 10 none md2 md5 straight`,
    ]);
    await write('sim.emu', [
      'mc_setbmc 0x20',
      'mc_add 0x20 0 no-device-sdrs 0x23 9 8 0x9f 0x1291 0xf02 persist_sdr',
      'sel_enable 0x20 1000 0x0a',
      'mc_enable 0x20',
    ]);
    const args = ['-n', '-c', `${dir}/lan.conf`, '-f', `${dir}/sim.emu`, '-s', `${dir}/state`];
    // Straight into the fabric's network: it must not die with a lab command.
    const child = spawn('nsenter', [`--net=/run/netns/${lab.id}-fab`, 'ipmi_sim', ...args], {
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    this.#process = child;
    for (const s of [child.stdout, child.stderr])
      s.on('data', (text: Buffer) => (this.#log += text.toString()));
    const hex = port.toString(16).toUpperCase();
    await waitFor('ipmi_sim listens', async () => {
      if (child.exitCode !== null) throw new Error(`it ended: ${this.#log}`);
      return (await lab.fabric('cat', '/proc/net/udp')).stdout.includes(`:${hex} `);
    });
  }

  stop(): void {
    this.#process?.kill('SIGKILL');
  }
}
