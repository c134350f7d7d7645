import { execFile } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { resolve } from 'node:path';
import { promisify } from 'node:util';
import t from 'tap';
import { metricsText } from '../../agent/status/metrics.js';
import { runningVm, sampleHeard, sampleView, sampleVms } from './agent/status/samples.js';

const promtool = (...args: string[]): Promise<unknown> =>
  promisify(execFile)(resolve('test/tools/promtool'), args);

await t.test('promtool takes configuration and rules, and the rules cry when they should', async (t) => {
  await t.resolves(promtool('check', 'rules', 'monitoring/flotilla.rules.yml'));
  await t.resolves(promtool('check', 'config', '--syntax-only', 'monitoring/prometheus.yml'));
  await t.resolves(promtool('test', 'rules', 'monitoring/flotilla.test.yml'));
});

await t.test('rules and dashboard ask for metrics that agents have', (t) => {
  const view = sampleView({
    refused: {},
    heard: [sampleHeard('n1', { vms: sampleVms(runningVm(1)) })],
  });
  // Renewals have an age only where a keeper has renewed.
  const has = new Set([
    ...[...metricsText(view).matchAll(/^# TYPE (\w+)/gm)].map((m) => m[1]),
    'flotilla_keeper_renewal_age_seconds',
  ]);
  const rules = readFileSync('monitoring/flotilla.rules.yml', 'utf8');
  const board = JSON.parse(readFileSync('monitoring/flotilla-dashboard.json', 'utf8')) as {
    panels: { targets: { expr: string }[] }[];
  };
  const asked = [rules, ...board.panels.flatMap((p) => p.targets.map((x) => x.expr))]
    .join('\n')
    .matchAll(/\bflotilla_\w+/g);
  const names = new Set([...asked].map((m) => m[0]));
  t.ok(names.size > 12);
  for (const n of names) t.ok(has.has(n), n);
  t.end();
});
