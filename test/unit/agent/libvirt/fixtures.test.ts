import { readFileSync, readdirSync } from 'node:fs';
import t from 'tap';
import { codeOfNumber } from '../../../../agent/libvirt/error.js';
import { FrameSplitter, type Frame } from '../../../../agent/libvirt/frame.js';
import { hostEvent } from '../../../../agent/libvirt/host-events.js';
import {
  EVENTS,
  PROCEDURES,
  wireError,
  type ProcedureName,
  type ReplyOf,
} from '../../../../agent/libvirt/protocol.js';
import { domainStats } from '../../../../agent/libvirt/stats.js';
import { domainState } from '../../../../agent/libvirt/words.js';
import { decode, type Codec } from '../../../../agent/libvirt/xdr.js';

/* Frames of real daemons, see test/lab/libvirt/capture.ts. */

const folder = 'test/fixtures/libvirt';
const alpha = '0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9';
const omega = 'ffffffff-4e5f-6071-8293-a4b5c6d7e8f9';

for (const version of readdirSync(folder)) {
  const frame = (name: string): Frame => {
    const hex = readFileSync(`${folder}/${version}/${name}.hex`, 'utf8').replace(/\s/g, '');
    const [only, ...more] = new FrameSplitter().push(Buffer.from(hex, 'hex'));
    if (only === undefined || more.length > 0) throw new Error(`${name}: one frame wanted`);
    return only;
  };
  const reply = <P extends ProcedureName>(name: P): ReplyOf<P> => {
    const { header, body } = frame(name);
    t.equal(header.procedure, PROCEDURES[name].number);
    return decode(PROCEDURES[name].reply as Codec<unknown>, body) as ReplyOf<P>;
  };

  await t.test(`libvirt ${version}`, async (t) => {
    const { domains, count } = reply('connectListAllDomains');
    t.equal(count, 2);
    t.same(
      [...domains].sort((a, b) => a.id - b.id),
      [
        { name: 'ömega', uuid: omega, id: -1 },
        { name: 'alpha', uuid: alpha, id: 1 },
      ],
    );

    const { state, reason } = reply('domainGetState');
    t.same(domainState(state, reason), { state: 'paused', reason: 'user' });

    const { records } = reply('connectGetAllDomainStats');
    const stats = records.map(({ domain, params }) => domainStats(domain, params, false));
    const running = stats.find((s) => s.uuid === alpha);
    t.match(running, {
      name: 'alpha',
      id: 1,
      state: { state: 'paused', reason: 'user' },
      cpu: { timeNs: Number },
      balloon: { currentKiB: Number, maximumKiB: 131072 },
      vcpu: { current: 1, maximum: 2, each: [{ index: 0, state: 'running', timeNs: Number }] },
      net: [],
      block: [
        { name: 'vda', path: '/tmp/alpha-boot.img', capacityBytes: 1 << 20, readRequests: Number },
        { name: 'vdb', path: '/tmp/alpha-data.img', capacityBytes: 16 << 20 },
        { name: 'hdc' },
      ],
    });
    t.equal(running?.raw, undefined);
    t.match(
      stats.find((s) => s.uuid === omega),
      { id: null, state: { state: 'shut-off', reason: 'unknown' } },
    );
    t.same(JSON.parse(JSON.stringify(stats)), stats, 'travels as JSON');

    t.match(reply('domainGetBlockInfo'), { capacity: 16n << 20n });
    t.same(reply('domainGetJobStats'), { type: 0, params: [] });
    t.ok(reply('domainMemoryStats').stats.some(({ tag, value }) => tag === 6 && value > 0n));
    t.match(reply('nodeGetInfo'), { model: 'x86_64', cpus: Number, nodes: Number });
    t.ok(reply('connectGetVersion').version > 5_000_000n);

    const error = decode(wireError, frame('error').body);
    t.equal(codeOfNumber(error.code), 'no-such-domain');
    t.match(error.message, 'nobody');

    const event = frame('lifecycle');
    t.equal(event.header.procedure, EVENTS.lifecycle.number);
    const body = decode(EVENTS.lifecycle.body, event.body);
    t.match(hostEvent({ kind: 'lifecycle', body }), {
      type: 'lifecycle',
      uuid: alpha,
      name: 'alpha',
      event: String,
    });
  });

  await t.test('a frame cut short or changed anywhere is refused or read, never worse', async (t) => {
    const { body } = frame('connectGetAllDomainStats');
    const codec = PROCEDURES.connectGetAllDomainStats.reply;
    for (let cut = 0; cut < body.length; cut += 7) t.throws(() => decode(codec, body.subarray(0, cut)));
    for (let at = 0; at < body.length; at += 3) {
      const changed = Buffer.from(body);
      changed[at] = (changed[at] ?? 0) ^ 0xff;
      try {
        for (const { domain, params } of decode(codec, changed).records) domainStats(domain, params, true);
      } catch (error) {
        if ((error as Error).name !== 'XdrError') throw error;
      }
    }
  });
}
