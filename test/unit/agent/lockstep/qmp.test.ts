import { mkdtempSync, rmSync } from 'node:fs';
import { createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import t, { type Test } from 'tap';
import { Qmp } from '../../../../agent/lockstep/qmp.js';
import { errorRecord } from '../../../../core/domain/error.js';

type Asked = { execute?: string; 'exec-oob'?: string; arguments?: unknown; id: number };

/** A monitor that answers as told; what nobody answers hangs. */
async function monitor(
  t: Test,
  answer: (asked: Asked, say: (line: object | string) => void) => void,
  greeting: object | string = { QMP: { version: {}, capabilities: ['oob'] } },
): Promise<{ path: string; server: Server; sockets: Socket[] }> {
  const dir = mkdtempSync(path.join(tmpdir(), 'qmp-'));
  const file = path.join(dir, 's');
  const sockets: Socket[] = [];
  const server = createServer((socket) => {
    sockets.push(socket);
    socket.on('error', () => undefined);
    const say = (line: object | string): void =>
      void socket.write(`${typeof line === 'string' ? line : JSON.stringify(line)}\r\n`);
    say(greeting);
    socket.setEncoding('utf8').on('data', (text: unknown) => {
      for (const line of String(text).split('\n').filter(Boolean)) {
        const asked = JSON.parse(line) as Asked;
        if (asked.execute === 'qmp_capabilities') say({ return: {}, id: asked.id });
        else answer(asked, say);
      }
    });
  });
  await new Promise<void>((resolve) => server.listen(file, resolve));
  t.teardown(() => {
    for (const s of sockets) s.destroy();
    server.close();
    rmSync(dir, { recursive: true, force: true });
  });
  return { path: file, server, sockets };
}

const codeOf = (p: Promise<unknown>): Promise<string> =>
  p.then(
    () => 'no error',
    (e: unknown) => errorRecord(e).code,
  );

await t.test('answers find their questions, refusals are in QEMU’s words', async (t) => {
  const { path } = await monitor(t, (asked, say) => {
    if (asked.execute === 'stop') say({ error: { class: 'GenericError', desc: 'not now' }, id: asked.id });
    else say({ return: { of: asked.execute }, id: asked.id });
  });
  const qmp = await Qmp.open(path);
  t.teardown(() => qmp.close());
  const [a, b, c] = await Promise.all([qmp.ask('a'), qmp.ask('b'), codeOf(qmp.ask('stop'))]);
  t.same([a, b, c], [{ of: 'a' }, { of: 'b' }, 'hypervisor-error']);
  await t.rejects(qmp.ask('stop'), { message: /not now/ });
});

await t.test('what hangs ends at its deadline, and others go past it', async (t) => {
  const { path } = await monitor(t, (asked, say) => {
    if (asked['exec-oob'] === 'yank') say({ return: {}, id: asked.id });
  });
  const qmp = await Qmp.open(path);
  t.teardown(() => qmp.close());
  const hangs = codeOf(qmp.ask('x-blockdev-change', {}, { deadlineMs: 50 }));
  t.same(await qmp.askNow('yank', { instances: [] }), {});
  t.equal(await hangs, 'timeout');
});

await t.test('an event that comes with the answer is not missed', async (t) => {
  const { path } = await monitor(t, (asked, say) => {
    say({ event: 'RESUME', data: {}, timestamp: {} });
    say({ return: {}, id: asked.id });
  });
  const qmp = await Qmp.open(path);
  t.teardown(() => qmp.close());
  const seen = qmp.until('it', (e) => e.event === 'RESUME', { deadlineMs: 60_000 });
  await qmp.ask('cont');
  t.equal((await seen).event, 'RESUME');
});

await t.test('a QEMU that ends, or speaks no JSON, fails all that is asked of it', async (t) => {
  const { path, sockets } = await monitor(t, (asked, say) => {
    if (asked.execute === 'quit') for (const s of sockets) s.destroy();
    if (asked.execute === 'garbage') say('{');
  });
  for (const end of ['quit', 'garbage']) {
    const qmp = await Qmp.open(path);
    const until = codeOf(qmp.until('it', () => false, { deadlineMs: 60_000 }));
    t.same(await Promise.all([codeOf(qmp.ask(end)), until]), [
      'hypervisor-unavailable',
      'hypervisor-unavailable',
    ]);
    t.equal(await codeOf(qmp.ask('more')), 'hypervisor-unavailable');
    t.notOk(qmp.isOpen);
  }
});

await t.test('one that knows no commands out of band is not taken, nor what is no QEMU', async (t) => {
  for (const greeting of [{ QMP: { version: {}, capabilities: [] } }, { hello: 1 }, 'SSH-2.0']) {
    const { path } = await monitor(t, () => undefined, greeting);
    t.equal(await codeOf(Qmp.open(path)), 'hypervisor-unavailable');
  }
  t.equal(await codeOf(Qmp.open('/nowhere')), 'hypervisor-unavailable');
});

await t.test('waiting ends with its signal', async (t) => {
  const { path } = await monitor(t, () => undefined);
  const qmp = await Qmp.open(path);
  t.teardown(() => qmp.close());
  const stop = new AbortController();
  const waits = codeOf(qmp.until('it', () => false, { deadlineMs: 60_000, signal: stop.signal }));
  stop.abort(new Error('enough'));
  t.equal(await waits, 'cancelled');
});
