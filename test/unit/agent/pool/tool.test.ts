import os from 'node:os';
import t from 'tap';
import { followTool, runTool } from '../../../../agent/pool/tool.js';
import { throttledPercent } from '../../../../agent/pool/qemu-img.js';
import { FlotillaError } from '../../../../core/domain/error.js';

const quick = { deadlineMs: 20_000 };
const fault = async (p: Promise<unknown>): Promise<FlotillaError | null> =>
  p.then(
    () => null,
    (e: unknown) => (e instanceof FlotillaError ? e : Promise.reject(e as Error)),
  );

await t.test('no shell reads the words, and the locale is C', async (t) => {
  const r = await runTool('printf', ['%s|', '$(id)', ';', '`id`', '*'], quick);
  t.equal(r.stdout, '$(id)|;|`id`|*|');
  t.match((await runTool('env', [], quick)).stdout, /^LC_ALL=C$/m);
});

await t.test('tools give way: to other work, and when memory runs out', async (t) => {
  t.equal((await runTool('cat', ['/proc/self/oom_score_adj'], quick)).stdout, '500');
  // Below whatever these tests run at, which need not be 0.
  t.equal((await runTool('nice', [], quick)).stdout, String(Math.min(19, os.getPriority() + 10)));
});

await t.test('what is brief runs as the agent does', async (t) => {
  const brief = { ...quick, brief: true } as const;
  t.equal((await runTool('nice', [], brief)).stdout, String(os.getPriority()));
  t.equal((await fault(runTool('sleep', ['60'], { brief: true, deadlineMs: 50 })))?.code, 'timeout');
});

await t.test('a program that goes on telling is heard until it is ended', async (t) => {
  const stop = new AbortController();
  let told = 0;
  await followTool(
    'sh',
    ['-c', 'while echo changed; do sleep 0.01; done'],
    () => {
      if (++told === 3) stop.abort();
    },
    stop.signal,
  );
  t.ok(told >= 3);
  let once = 0;
  await followTool('echo', ['changed'], () => once++, new AbortController().signal);
  t.equal(once, 1, 'one that ends by itself, too');
  await followTool('no-such-tool', [], () => undefined, new AbortController().signal);
});

await t.test(
  'in the jail there is no network, no capability, no way to more, and a bound to memory and time',
  async (t) => {
    const jail = { memoryBytes: 2 ** 30, cpuS: 5 };
    const status = (await runTool('cat', ['/proc/self/status'], { ...quick, jail })).stdout;
    for (const set of ['CapPrm', 'CapEff', 'CapBnd']) t.match(status, new RegExp(`^${set}:\\s+0+$`, 'm'));
    t.match(status, /^NoNewPrivs:\s+1$/m);
    const devices = (await runTool('cat', ['/proc/self/net/dev'], { ...quick, jail })).stdout
      .split('\n')
      .slice(2);
    t.strictSame(
      devices.map((l) => l.split(':')[0]?.trim()),
      ['lo'],
    );
    const limits = (await runTool('cat', ['/proc/self/limits'], { ...quick, jail })).stdout;
    t.match(limits, /Max address space\s+1073741824/);
    t.match(limits, /Max cpu time\s+5/);
    const greedy = await fault(
      runTool('head', ['-c', '2G', '/dev/zero'], { ...quick, jail: { memoryBytes: 2 ** 20, cpuS: 5 } }),
    );
    t.equal(greedy?.code, 'tool-failed', 'what wants more does not start');
    t.match(
      (
        await fault(
          runTool('sha256sum', ['/dev/zero'], { ...quick, jail: { memoryBytes: 2 ** 30, cpuS: 1 } }),
        )
      )?.message,
      /killed|code/,
    );
  },
);

await t.test('a tool ends by deadline, by silence, or by the caller', async (t) => {
  t.equal((await fault(runTool('sleep', ['60'], { deadlineMs: 50 })))?.code, 'timeout');
  t.equal((await fault(runTool('sleep', ['60'], { stallMs: 50 })))?.code, 'timeout');
  const stop = new AbortController();
  const run = fault(runTool('yes', [], { ...quick, signal: stop.signal, onOutput: () => stop.abort() }));
  t.equal((await run)?.code, 'cancelled');
  t.equal((await fault(runTool('true', [], { signal: AbortSignal.abort() })))?.code, 'cancelled');
});

await t.test('its end is told in our words, its own as the cause', async (t) => {
  const e = await fault(runTool('ls', ['/nowhere'], quick));
  t.match(e, { code: 'tool-failed', message: /ls .* code 2/, cause: { message: /No such file/ } });
  t.equal((await runTool('ls', ['/nowhere'], { ...quick, codes: [2] })).code, 2, 'a code that is an answer');
  t.equal((await fault(runTool('dd', ['if=/dev/zero', 'of=/dev/full', 'count=1'], quick)))?.code, 'no-space');
  t.match(await fault(runTool('no-such-tool', [], quick)), { code: 'tool-failed' });
});

await t.test('percent are read out of any pieces, and not told too often', async (t) => {
  let now = 0;
  const told: number[] = [];
  const read = throttledPercent(
    (share) => told.push(share),
    () => now,
  );
  read('    (0.00/100%)\r    (1.00/100%)\r');
  read('    (2.00/100%)\r');
  now = 1000;
  read('rubbish');
  read('    (50.25/100%)\r');
  t.strictSame(told, [0.01, 0.5025]);
});
