import t from 'tap';
import { statusPage } from '../../../../agent/status/page.js';
import { verdict } from '../../../../agent/status/verdict.js';
import type { StatusView } from '../../../../agent/status/view.js';
import { bytes, duration, list, memory } from '../../../../agent/status/words.js';
import { sampleState, sampleVm } from '../radio/samples.js';
import { runningVm, sampleHeard, sampleView, sampleVms, vmId, wallMs } from './samples.js';

/** Spaces that do not break look like any other here. */
const plain = (text: string): string => text.replaceAll('\u00a0', ' ');
const page = async (v: StatusView, still = false): Promise<string> => plain(await statusPage(v, { still }));

await t.test('the first sentence says whether all is well', async (t) => {
  const well = verdict(sampleView());
  t.same(well.needs, []);
  t.equal(well.sentence, 'All is well: n1 runs 1 VM, hears both other nodes and reaches the ledger.');
  t.match(await page(sampleView()), /<div class="verdict ok" role="status">\s*<p>All is well/);
  const alone = verdict(sampleView({ heard: [sampleHeard('n1')] }));
  t.equal(alone.sentence, 'All is well: n1 runs 0 VMs, is alone and reaches the ledger.');
});

await t.test('each thing that needs a hand is named, worst first', async (t) => {
  const v = sampleView({
    ledger: { reachable: false, text: 'no answer for 12 s' },
    health: [
      { part: 'hypervisor', ok: false, text: 'libvirtd does not answer since 01:00' },
      { part: 'pool nfs', ok: false, text: 'not mounted' },
    ],
    certificate: { fingerprint: 'ab'.repeat(32), expiresMs: wallMs + 3 * 86_400_000 },
    heard: [
      sampleHeard('n1', {
        state: sampleState('n1', {
          pools: [
            { pool: 'local', totalBytes: 100, freeBytes: 5, ok: true, text: '' },
            { pool: 'nfs', totalBytes: 100, freeBytes: 50, ok: false, text: 'not mounted' },
          ],
        }),
        vms: sampleVms(runningVm(1, { phase: 'crashed', reason: 'QEMU crashed' })),
      }),
      sampleHeard('n2', { beatAgeMs: 12_000 }),
      sampleHeard('n3', { agentGone: true }),
      sampleHeard('n4', { beatAgeMs: null, state: null, stateAgeMs: null }),
    ],
  });
  const { level, sentence, needs } = verdict(v);
  t.equal(level, 'bad');
  t.equal(sentence, '9 things need a hand; meanwhile n1 runs 0 VMs.');
  const texts = needs.map((n) => n.text).join('\n');
  for (const part of [
    'The ledger cannot be reached (no answer for 12 s)',
    'hypervisor: libvirtd does not answer',
    'VM web-1 crashed: QEMU crashed',
    'Pool nfs: not mounted',
    'Pool local is 95 % full',
    'n2: silent for 12 s',
    'n3: the agent there ended without goodbye',
    'n4: not heard since',
    'expires in 3 d',
  ])
    t.match(texts, part);
  t.notMatch(texts, 'No other node', 'n3 was heard just before it went');
  const firstWarn = needs.findIndex((n) => n.level === 'warn');
  t.ok(needs.slice(firstWarn).every((n) => n.level === 'warn'));
});

await t.test('a node that is cut off alone says that it may be itself', async (t) => {
  const v = sampleView({
    heard: [
      sampleHeard('n1'),
      sampleHeard('n2', { beatAgeMs: 9_000 }),
      sampleHeard('n3', { beatAgeMs: 9_000 }),
    ],
  });
  t.match(verdict(v).needs[0]?.text, /No other node is heard/);
  t.match(verdict(v).needs[1]?.text, 'n2 and n3: silent for 9.0 s.');
  const mute = verdict(sampleView({ heard: [sampleHeard('n1', { connected: false }), sampleHeard('n2')] }));
  t.match(mute.needs[0]?.text, /own broker does not answer/);
});

await t.test('the page has everything one looks for, without ledger and controller', async (t) => {
  const v = sampleView({ ledger: { reachable: false, text: '' }, refused: { 'forged-topic': 3, token: 0 } });
  const text = await page(v);
  for (const part of [
    'VMs on this node',
    'web-1',
    'up 2 h 5 min',
    '10.1.0.7',
    '37 %',
    '381 MiB of 977 MiB',
    '12.0 kB/s, 3.4 MB/s',
    'as heard here by radio',
    'n2',
    'Who hears whom',
    '0.7 s',
    'Pools on this node',
    '40 %',
    '60.0 GB of 100 GB',
    'Last events',
    'is 91 % full',
    'AMD EPYC 7302P',
    'SAMSUNG',
    'eno1',
    '43 °C',
    'Debian GNU/Linux 13',
    'libvirt 11.3.0',
    'abababababababab',
    '2029-01-31',
    '3 forged-topic',
    '67.7 MiB',
  ])
    t.match(text, part);
  t.notMatch(text, /<script|javascript:| on[a-z]+=/i);
  t.notMatch(text, '0 token');
  t.match(await page(v, true), /standing still/);
});

await t.test('an agent that has just started, with nothing known, still has a page', async (t) => {
  const text = await page(
    sampleView({
      clusterName: null,
      facts: null,
      certificate: null,
      keeper: null,
      policy: null,
      ledger: { reachable: null, text: '' },
      heard: [sampleHeard('n1', { state: null, stateAgeMs: null, beatAgeMs: null })],
    }),
  );
  t.match(text, 'The ledger has not answered yet');
  t.match(text, 'being collected');
  t.notMatch(text, /undefined|NaN|\[object/);
});

await t.test('hostile words are shown as words', async (t) => {
  const evil = '<script>alert("x")</script>&\'"><img src=x onerror=alert(1)>';
  const v = sampleView({
    clusterName: evil,
    health: [{ part: evil, ok: false, text: evil }],
    ledger: { reachable: false, text: evil },
    refused: { [evil]: 1 },
    heard: [
      sampleHeard('n1', {
        state: sampleState('n1', {
          version: evil,
          qemu: evil,
          pools: [{ pool: evil, totalBytes: 1, freeBytes: 0, ok: false, text: evil }],
        }),
        vms: sampleVms(
          sampleVm('n1', vmId(1), {
            name: '<script>',
            reason: evil,
            addresses: [evil],
            pendingRestart: [evil],
          }),
          sampleVm('n1', vmId(2), { name: evil, phase: 'failed' }),
        ),
        events: [{ atMs: 0, level: 'error', subject: evil, text: evil }],
      }),
      sampleHeard('n2', {
        state: sampleState('n2', { health: [{ part: evil, ok: false, text: evil }], hears: { n1: 1 } }),
      }),
    ],
    facts: {
      cpuModel: evil,
      cpuCores: 1,
      cpuMHz: 1,
      memoryBytes: 1,
      temperatureC: null,
      uuid: evil,
      os: evil,
      kernel: evil,
      drives: [{ name: evil, model: evil, sizeBytes: 1 }],
      nics: [{ name: evil, mac: evil, addresses: [evil], mbit: null, up: false }],
    },
  });
  const text = await page(v);
  t.notMatch(text, /<script/i);
  t.notMatch(text, /<img/i);
  const tags = text.replace(/"[^"]*"/g, '""').match(/<[^>]*>/g) ?? [];
  t.notOk(
    tags.some((tag) => /onerror|alert/.test(tag)),
    'no quote of it ends an attribute',
  );
  t.ok(text.split('&lt;script&gt;').length > 20, 'it stands there as text');
});

await t.test('many nodes and VMs: only pairs that do not hear, and a bounded list', async (t) => {
  const names = Array.from({ length: 20 }, (_, i) => `n${i + 1}`);
  const hears = Object.fromEntries(names.map((n) => [n, 500]));
  const v = sampleView({
    heard: names.map((n) =>
      sampleHeard(n, {
        state: sampleState(n, { hears: n === 'n7' ? { ...hears, n9: 50_000 } : hears }),
        ...(n === 'n1' ? { vms: sampleVms(...Array.from({ length: 600 }, (_, i) => runningVm(i))) } : {}),
        ...(n === 'n8' ? { stateAgeMs: 120_000 } : {}),
      }),
    ),
  });
  const text = await page(v);
  t.match(text, 'n7 does not hear n9');
  t.equal(text.split('does not hear').length, 2);
  t.match(text, 'What n8 hears is not known here');
  t.match(text, 'And 100 more');
});

await t.test('words', async (t) => {
  t.same([0, 999, 1000, 12_345, 999_999, 3.2e9, 5e15, 2e18].map(bytes).map(plain), [
    '0 B',
    '999 B',
    '1.0 kB',
    '12.3 kB',
    '1.0 MB',
    '3.2 GB',
    '5.0 PB',
    '2000 PB',
  ]);
  t.same([0, 820, 9_960, 89_000, 90_000, 3_600_000, 7_500_000, 1e9].map(duration), [
    '0.0 s',
    '0.8 s',
    '10 s',
    '89 s',
    '2 min',
    '1 h',
    '2 h 5 min',
    '11 d',
  ]);
  t.same([8 * 2 ** 30, 512 * 2 ** 20, 1023].map(memory).map(plain), ['8.0 GiB', '512 MiB', '1023 B']);
  t.equal(duration(-5), '0.0 s');
  t.equal(list(['a']), 'a');
  t.equal(list(['a', 'b', 'c']), 'a, b and c');
  t.equal(list(['a', 'b', 'c', 'd', 'e', 'f', 'g']), 'a, b, c, d and 3 more');
});
