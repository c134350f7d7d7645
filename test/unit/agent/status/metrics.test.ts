import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { resolve } from 'node:path';
import t from 'tap';
import { AgentMeter } from '../../../../agent/status/agent-use.js';
import { metricsText } from '../../../../agent/status/metrics.js';
import { runningVm, sampleHeard, sampleView, sampleVms } from './samples.js';

async function promtool(text: string): Promise<{ code: number; says: string }> {
  const p = spawn(resolve('test/tools/promtool'), ['check', 'metrics'], { stdio: ['pipe', 'pipe', 'pipe'] });
  let says = '';
  for (const s of [p.stdout, p.stderr]) s.on('data', (d: Buffer) => (says += d.toString()));
  p.stdin.end(text);
  const [code] = (await once(p, 'close')) as [number];
  return { code, says };
}

await t.test('promtool has nothing to say', async (t) => {
  t.same(await promtool(metricsText(sampleView({ refused: { 'forged-topic': 3, 'odd kind': 1 } }))), {
    code: 0,
    says: '',
  });
  const evil = sampleView({
    heard: [sampleHeard('n1', { vms: sampleVms(runningVm(1, { name: 'a"b\\c\nd{}' }), runningVm(2)) })],
  });
  t.same(await promtool(metricsText(evil)), { code: 0, says: '' });
  const young = sampleView({
    facts: null,
    certificate: null,
    keeper: null,
    policy: null,
    ledger: { reachable: null, text: '' },
    heard: [sampleHeard('n1', { state: null, beatAgeMs: null, stateAgeMs: null })],
  });
  t.same(await promtool(metricsText(young)), { code: 0, says: '' });
  const bad = await promtool('# TYPE flotilla_x_total gauge\nflotilla_x_total 1\n');
  t.not(bad.says, '', 'and it does look');
});

await t.test('numbers are in base units, with labels that name the object', async (t) => {
  const text = metricsText(sampleView({ refused: { certificate: 2 } }));
  for (const line of [
    'flotilla_node_cpu_used_ratio 0.12',
    'flotilla_pool_free_bytes{pool="local"} 60000000000',
    'flotilla_vm_cpu_used_ratio{vm="0b8e1c9e-7a43-4a8e-9a64-000000000001",name="web-1"} 0.37',
    'flotilla_vm_disk_bytes_per_second{vm="0b8e1c9e-7a43-4a8e-9a64-000000000001",name="web-1",direction="write"} 3400000',
    'flotilla_vms{phase="stopped"} 1',
    'flotilla_radio_peer_beat_age_seconds{peer="n2"} 0.4',
    'flotilla_refused_total{kind="certificate"} 2',
    'flotilla_refused_total{kind="unreadable"} 0',
    'flotilla_ledger_reachable 1',
    'process_resident_memory_bytes 71000000',
  ])
    t.ok(text.split('\n').includes(line), line);
  t.notMatch(text, 'beat_age_seconds{peer="n1"}');
});

await t.test('the agent measures itself', async (t) => {
  const meter = new AgentMeter();
  meter.start();
  t.teardown(() => meter.stop());
  const use = meter.use();
  t.ok(use.rssBytes > 10e6);
  t.ok(use.cpuSeconds > 0);
  t.ok(Number.isFinite(use.lagSeconds) && use.lagSeconds >= 0);
  t.ok(use.startedMs <= Date.now());
});
