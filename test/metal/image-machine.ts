import { spawn, type ChildProcess } from 'node:child_process';
import { appendFileSync, copyFileSync, existsSync, realpathSync } from 'node:fs';
import https from 'node:https';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { freePort, waitFor } from '../lab/harness.js';

/** Emulated CPU, as `scripts/metal` has it. */
const cpu = process.env['METAL_CPU'] ?? 'max,svm=off,la57=off';

const top = fileURLToPath(new URL('../../../..', import.meta.url));
const build = process.env['FLOTILLA_BUILD'] ?? path.join(top, 'build');

/** What `images/build image` made. */
export const imageDir = (): string => realpathSync(path.join(build, 'image'));

/** What an emulated machine without KVM on a busy host may need from power-on to the end of its start, ms. */
export const bootLimitMs = 900_000;

export interface MachineOptions {
  readonly dir: string;
  readonly firmware: 'bios' | 'uefi';
  /** How the image is put in; none: it starts from its drives, or the network. */
  readonly medium: 'cd' | 'usb' | 'none';
  /** Files of its drives, raw. */
  readonly drives: readonly string[];
  /** Its cards: each is plugged into a unix socket. Without them: one of a network of its own, which leads to 127.0.0.1. */
  readonly cards?: readonly { readonly socket: string; readonly mac: string }[];
  /** Whether it starts from the first of these cards when it has nothing else: by iPXE. */
  readonly netboot?: boolean;
  /** Its firmware tries its drives before a CD. */
  readonly drivesFirst?: boolean;
  readonly memoryMiB?: number;
  /** Of the image; else the one in build/. */
  readonly iso?: string;
}

/** A whole machine with firmware, as the image meets it. */
export class ImageMachine {
  readonly #o: MachineOptions;
  #child: ChildProcess | null = null;
  #port = 0;
  #log = '';

  constructor(o: MachineOptions) {
    this.#o = o;
  }

  /** Its serial line since power-on; all of it is in console.log beside its drives. */
  get console(): string {
    return this.#log.replaceAll('\r', '');
  }

  async on(o: Partial<MachineOptions> = {}): Promise<void> {
    const { dir, firmware, medium, drives, cards, netboot, drivesFirst, memoryMiB, iso } = {
      ...this.#o,
      ...o,
    };
    const root = realpathSync(path.join(build, 'root'));
    const share = (file: string) => path.join(root, 'usr/share', file);
    this.#port = await freePort();
    this.#log = '';
    const image = iso ?? path.join(build, 'image/flotilla.iso');
    const vars = path.join(dir, 'vars.fd');
    if (firmware === 'uefi' && !existsSync(vars)) copyFileSync(share('OVMF/OVMF_VARS_4M.fd'), vars);
    const flash = (file: string, more = '') => ['-drive', `if=pflash,format=raw,file=${file}${more}`];
    const args = [
      ...['-nodefaults', '-no-user-config', '-display', 'none', '-machine', 'q35', '-cpu', cpu],
      ...['-accel', 'tcg,thread=multi,tb-size=256', '-m', String(memoryMiB ?? 1024), '-smp', '2'],
      ...(firmware === 'uefi'
        ? [...flash(share('OVMF/OVMF_CODE_4M.fd'), ',readonly=on'), ...flash(vars)]
        : []),
      ...(medium === 'cd'
        ? [
            ...['-drive', `id=cd,file=${image},if=none,format=raw,media=cdrom,readonly=on`],
            ...['-device', `ide-cd,drive=cd,bus=ide.1,bootindex=${drivesFirst === true ? 8 : 1}`],
          ]
        : []),
      ...(medium === 'usb'
        ? [
            ...['-device', 'qemu-xhci', '-drive', `id=usb,file=${image},if=none,format=raw,readonly=on`],
            ...['-device', 'usb-storage,drive=usb,bootindex=1'],
          ]
        : []),
      ...drives.flatMap((file, n) => [
        ...['-drive', `id=d${n},file=${file},if=none,format=raw,cache=unsafe,discard=unmap`],
        ...['-device', `virtio-blk-pci,drive=d${n},serial=drive${n},bootindex=${2 + n}`],
      ]),
      ...(cards === undefined
        ? [
            ...['-netdev', `user,id=net,hostfwd=tcp:127.0.0.1:${this.#port}-:7443`],
            ...['-device', 'virtio-net-pci,netdev=net,romfile='],
          ]
        : cards.flatMap(({ socket, mac }, n) => [
            ...['-netdev', `stream,id=net${n},server=off,addr.type=unix,addr.path=${socket}`],
            '-device',
            `virtio-net-pci,netdev=net${n},mac=${mac},${netboot === true && n === 0 ? 'bootindex=9' : 'romfile='}`,
          ])),
      ...['-object', 'rng-random,id=rng,filename=/dev/urandom', '-device', 'virtio-rng-pci,rng=rng'],
      ...['-serial', 'stdio'],
    ];
    const lib = path.join(root, 'usr/lib/x86_64-linux-gnu');
    const child = spawn(
      path.join(root, 'usr/lib64/ld-linux-x86-64.so.2'),
      [
        ...['--library-path', lib, path.join(root, 'usr/bin/qemu-system-x86_64')],
        ...['-L', share('qemu'), '-L', share('seabios'), ...args],
      ],
      { stdio: ['pipe', 'pipe', 'pipe'] },
    );
    this.#child = child;
    for (const stream of [child.stdout, child.stderr])
      stream.setEncoding('utf8').on('data', (text: string) => {
        this.#log += text;
        appendFileSync(path.join(dir, 'console.log'), text);
      });
  }

  get isOn(): boolean {
    return this.#child !== null && this.#child.exitCode === null && this.#child.signalCode === null;
  }

  /** Keys at its serial line. */
  type(keys: string): void {
    this.#child?.stdin?.write(keys);
  }

  /** Cuts its power. What its drives were given is on them. */
  async off(): Promise<void> {
    const child = this.#child;
    this.#child = null;
    if (child === null || child.exitCode !== null || child.signalCode !== null) return;
    const ended = new Promise((resolve) => child.once('close', resolve));
    child.kill('SIGKILL');
    await ended;
  }

  /** Waits until its console shows something. */
  async shows(what: RegExp): Promise<RegExpExecArray> {
    const child = this.#child;
    return waitFor(
      `the console shows ${String(what)}`,
      () => {
        if (child?.exitCode !== null) throw new Error(`it is off: ${this.#log.slice(-2_000)}`);
        return what.exec(this.console);
      },
      { limitMs: bootLimitMs, everyMs: 500 },
    ).catch((cause: unknown) => {
      throw new Error(`the last of its console: ${this.console.slice(-1_500)}`, { cause });
    });
  }

  /** Its line of health. */
  health(): Promise<{ state?: string; node: string; fingerprint: string }> {
    return new Promise((resolve, reject) => {
      const o = { host: '127.0.0.1', port: this.#port, path: '/healthz', rejectUnauthorized: false };
      const req = https.get({ ...o, timeout: 30_000 }, (res) => {
        let text = '';
        res.setEncoding('utf8').on('data', (part: string) => (text += part));
        res.on('end', () => resolve(JSON.parse(text) as never));
      });
      req.on('timeout', () => req.destroy(new Error('no answer')));
      req.on('error', reject);
    });
  }

  /** The fingerprint on its console once it waits, hex. */
  async pending(): Promise<string> {
    // Of the last screen: it may have had another key before.
    const [, grouped = ''] = await this.shows(
      /PENDING: waits to be admitted(?![^]*PENDING: waits)[^]*?fingerprint +((?:[0-9a-f]{4} ){15}[0-9a-f]{4})/,
    );
    return grouped.replaceAll(' ', '');
  }
}
