/*
 * Makes the fixtures of the unit tests: raw frames of a real daemon, one file per frame, in
 * test/fixtures/libvirt/<version>/. Run it again for a new libvirt:
 *
 *   node build/js/test/lab/libvirt/capture.js
 */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { connect, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { encodeHead, FrameSplitter, type Frame } from '../../../agent/libvirt/frame.js';
import { EVENTS, LibvirtHypervisor, PROCEDURES } from '../../../agent/libvirt/index.js';
import { MESSAGE, STATUS } from '../../../agent/libvirt/protocol.js';
import { LabDaemon } from './daemon.js';
import { tinyGuest } from './guest.js';

const daemon = await LabDaemon.start('n1');
const folder = mkdtempSync(join(tmpdir(), 'capture-'));
const frames: Frame[] = [];
const proxy = createServer((client) => {
  const splitter = new FrameSplitter();
  const server = connect(daemon.socketPath);
  server.on('data', (chunk) => frames.push(...splitter.push(Buffer.from(chunk))));
  client.pipe(server).pipe(client);
  client.on('error', () => server.destroy());
  server.on('error', () => client.destroy());
});
try {
  const socketPath = join(folder, 'sock');
  await new Promise<void>((resolve) => proxy.listen(socketPath, resolve));
  await using hypervisor = new LibvirtHypervisor({ socketPath });
  hypervisor.open();
  await hypervisor.waitConnected();
  const { libvirtVersion } = await hypervisor.facts();
  const guest = tinyGuest(daemon, { name: 'alpha', uuid: '0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9' });
  await hypervisor.define(guest.xml);
  await hypervisor.define(
    tinyGuest(daemon, { name: 'ömega', uuid: 'ffffffff-4e5f-6071-8293-a4b5c6d7e8f9' }).xml,
  );
  await hypervisor.start(guest.uuid, { paused: true });
  await hypervisor.list();
  await hypervisor.state(guest.uuid);
  await hypervisor.stats();
  await hypervisor.memoryStats(guest.uuid);
  await hypervisor.blockInfo(guest.uuid, 'vdb');
  await hypervisor.jobProgress(guest.uuid);
  await hypervisor.byName('nobody').catch(() => undefined);

  const out = join('test/fixtures/libvirt', libvirtVersion);
  mkdirSync(out, { recursive: true });
  const wanted = [
    'nodeGetInfo',
    'connectGetVersion',
    'connectListAllDomains',
    'connectGetAllDomainStats',
    'domainGetState',
    'domainMemoryStats',
    'domainGetBlockInfo',
    'domainGetJobStats',
  ] as const;
  const save = (name: string, fits: (f: Frame) => boolean): void => {
    const frame = frames.findLast(fits);
    if (frame === undefined) throw new Error(`no frame for ${name}`);
    const bytes = Buffer.concat([encodeHead(frame.header, frame.body.length), frame.body]);
    writeFileSync(join(out, `${name}.hex`), `${bytes.toString('hex').replace(/.{1,96}/g, '$&\n')}`);
  };
  for (const name of wanted) {
    const { number } = PROCEDURES[name];
    save(
      name,
      ({ header }) =>
        header.type === MESSAGE.reply && header.procedure === number && header.status === STATUS.ok,
    );
  }
  save('error', ({ header }) => header.type === MESSAGE.reply && header.status === STATUS.error);
  save(
    'lifecycle',
    ({ header }) => header.type === MESSAGE.event && header.procedure === EVENTS.lifecycle.number,
  );
} finally {
  proxy.close();
  await daemon.stop();
  rmSync(folder, { recursive: true, force: true });
}
