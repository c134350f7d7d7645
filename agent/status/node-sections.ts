import { html } from 'hono/html';
import { copyLine } from '../../core/domain/copy-words.js';
import type { NodeDrive, PoolUse } from '../../core/domain/node.js';
import type { VmPhase, VmState } from '../../core/domain/vm.js';
import type { RadioEvent } from '../../core/wire/radio.js';
import { ownLines, type StatusView } from './view.js';
import { bytes, count, duration, memory, moment, percent } from './words.js';

/** Escaped HTML, or nothing. */
export type Part = ReturnType<typeof html>;

/** VMs listed; a node has tens. The rest is said as a number, so that the page stays a page. */
const vmsShownMax = 500;
const eventsShownMax = 20;

/** A cell of a table that becomes a card on narrow screens. */
export const cell = (label: string, content: Part | string | number, kind = ''): Part =>
  html`<td data-label="${label}" class="${content === '' ? 'empty' : kind}">${content}</td>`;

const phaseLevel: Readonly<Record<VmPhase, string>> = {
  creating: 'quiet',
  stopped: 'quiet',
  starting: 'ok',
  running: 'ok',
  paused: 'warn',
  stopping: 'warn',
  crashed: 'bad',
  failed: 'bad',
  deleting: 'quiet',
  unknown: 'warn',
};

/** Phases in which the VM's machine is there. */
const lives: ReadonlySet<VmPhase> = new Set<VmPhase>(['running', 'paused', 'stopping']);

export function vmsSection(v: StatusView): Part {
  const lines = [...(ownLines(v)?.vms.values() ?? [])].sort((a, b) =>
    a.state.name.localeCompare(b.state.name),
  );
  if (lines.length === 0)
    return html`<h2>VMs on this node</h2>
      <p class="quiet">None.</p>`;
  const more = lines.length - vmsShownMax;
  return html`<h2>VMs on this node</h2>
    <table class="cards">
      <thead>
        <tr>
          <th scope="col">Name</th>
          <th scope="col">State</th>
          <th scope="col">Addresses</th>
          <th scope="col">CPU</th>
          <th scope="col">Memory</th>
          <th scope="col">Disk read, write</th>
          <th scope="col">Network in, out</th>
        </tr>
      </thead>
      <tbody>
        ${lines.slice(0, vmsShownMax).map((l) => vmRow(v, l.state))}
      </tbody>
    </table>
    ${more > 0 ? html`<p class="quiet">And ${more} more.</p>` : ''}`;
}

function vmRow(v: StatusView, s: VmState): Part {
  const since = s.upSinceMs === null || !lives.has(s.phase) ? '' : `, up ${duration(v.wallMs - s.upSinceMs)}`;
  const why = s.error?.message ?? s.reason;
  const pending =
    s.pendingRestart.length === 0
      ? ''
      : html`<br /><span class="warn">needs a restart: ${s.pendingRestart.join(', ')}</span>`;
  const st = s.stats;
  const rate = (a: number, b: number) => `${bytes(a)}/s, ${bytes(b)}/s`;
  return html`<tr>
    <th scope="row">${s.name}</th>
    ${cell('State', html`<span class="${phaseLevel[s.phase]}">${s.phase}</span>${since}${why === '' ? '' : html`<br />${why}`}${pending}${protection(s)}${copies(s)}`)}
    ${cell('Addresses', s.addresses.join(', '))}
    ${cell('CPU', st === null ? '' : percent(st.cpuPct, 100), 'n')}
    ${cell('Memory', st === null ? '' : `${memory(st.memoryUsedBytes)} of ${memory(st.memoryBytes)}`, 'n')}
    ${cell('Disk read, write', st === null ? '' : rate(st.diskReadBps, st.diskWriteBps), 'n')}
    ${cell('Network in, out', st === null ? '' : rate(st.netRxBps, st.netTxBps), 'n')}
  </tr>`;
}

/** How it stands with HA, below its state; nothing where nobody asked for it. */
function protection({ ha }: VmState): Part | string {
  if (ha.state === 'off') return '';
  const text = ha.text.replace(/^not protected: /, '');
  const [level, word] = {
    protected: ['quiet', ha.standby === null ? 'protected' : `standby ${ha.standby}`] as const,
    unprotected: ['bad', 'not protected'] as const,
    paused: ['warn', 'HA paused'] as const,
  }[ha.state];
  return html`<br /><span class="${level}">${word}</span>${text === '' ? '' : `: ${text}`}`;
}

/** How the copies of its disks stand, where one is not in sync. */
function copies(s: VmState): Part[] {
  return (s.copies ?? [])
    .filter((c) => c.state !== 'in-sync')
    .map(
      (c) =>
        html`<br /><span class="${c.state === 'syncing' ? 'quiet' : 'bad'}">disk ${c.name}</span>:
          ${copyLine(c)}`,
    );
}

export function poolsSection(v: StatusView): Part {
  const pools = ownLines(v)?.state?.pools ?? [];
  if (pools.length === 0)
    return html`<h2>Pools on this node</h2>
      <p class="quiet">None is known yet.</p>`;
  return html`<h2>Pools on this node</h2>
    <table class="cards">
      <thead>
        <tr>
          <th scope="col">Name</th>
          <th scope="col">State</th>
          <th scope="col">Used</th>
          <th scope="col">Free</th>
        </tr>
      </thead>
      <tbody>
        ${pools.map(poolRow)}
      </tbody>
    </table>`;
}

function poolRow(p: PoolUse): Part {
  const used = p.totalBytes - p.freeBytes;
  const share = p.totalBytes > 0 ? used / p.totalBytes : 0;
  return html`<tr>
    <th scope="row">${p.pool}</th>
    ${cell('State', p.ok ? html`<span class="ok">well</span>` : html`<span class="bad">not well</span> ${p.text}`)}
    ${cell('Used', html`<meter min="0" max="1" high="0.9" value="${share.toFixed(3)}" aria-label="used of pool ${p.pool}"></meter> ${percent(used, p.totalBytes)}`, 'n')}
    ${cell('Free', `${bytes(p.freeBytes)} of ${bytes(p.totalBytes)}`, 'n')}
  </tr>`;
}

/** Last events of all nodes heard, newest first. */
export function eventsSection(v: StatusView): Part {
  const all: (RadioEvent & { node: string })[] = v.heard
    .flatMap((h) => h.events.map((e) => ({ ...e, node: h.node })))
    .sort((a, b) => b.atMs - a.atMs)
    .slice(0, eventsShownMax);
  const level = { info: 'quiet', warning: 'warn', error: 'bad' } as const;
  const line = (e: (typeof all)[number]) =>
    html`<li>
      <span class="quiet">${moment(e.atMs)} ${e.node}</span>
      <span class="${level[e.level]}">${e.level}</span> ${e.subject}: ${e.text}
    </li>`;
  return html`<h2>Last events in the cluster</h2>
    ${
      all.length === 0
        ? html`<p class="quiet">None since this agent started.</p>`
        : html`<ul class="plain">
            ${all.map(line)}
          </ul>`
    }`;
}

export function partsSection(v: StatusView): Part {
  const ledger = v.ledger.reachable;
  const parts = [
    { part: 'ledger', ok: ledger === true, text: ledger === null ? 'not asked yet' : v.ledger.text },
    ...v.health.filter((h) => h.part !== 'ledger'),
  ];
  return html`<h2>Parts of this node</h2>
    <ul class="plain">
      ${parts.map((h) => html`<li><span class="${h.ok ? 'ok' : 'bad'}">${h.ok ? 'well' : 'not well'}</span> ${h.part}${h.text === '' ? '' : `: ${h.text}`}</li>`)}
    </ul>`;
}

export function aboutSection(v: StatusView): Part {
  const s = ownLines(v)?.state;
  const f = v.facts;
  const refused = Object.entries(v.refused).filter(([, n]) => n > 0);
  const row = (name: string, content: Part | string): Part =>
    content === ''
      ? html``
      : html`<dt>${name}</dt>
          <dd>${content}</dd>`;
  const lines = (items: readonly string[]): Part =>
    html`${items.map((i, n) => html`${n === 0 ? '' : html`<br />`}${i}`)}`;
  return html`<h2>About this node</h2>
    <dl>
      ${row('CPU', f === null ? (s ? count(s.cpus, 'CPU') : '') : `${f.cpuModel}, ${count(s?.cpus ?? f.cpuCores, 'CPU')}, guests by ${s?.accel ?? 'probing'}`)}
      ${row('Load', s ? `${Math.round(s.cpuUsedPct)} % of the CPUs, load ${s.loadAvg1.toFixed(2)}` : '')}
      ${row('Memory', s ? `${memory(s.memoryUsedBytes)} of ${memory(s.memoryBytes)} used` : '')}
      ${row('Temperature', f === null || f.temperatureC === null ? '' : `${Math.round(f.temperatureC)} °C`)}
      ${row('Drives', s?.drives !== undefined ? lines(s.drives.map(driveText)) : f === null || f.drives.length === 0 ? '' : lines(f.drives.map((d) => `${d.name}: ${d.model === '' ? 'drive' : d.model}, ${bytes(d.sizeBytes)}`)))}
      ${row('NICs', f === null || f.nics.length === 0 ? '' : lines(f.nics.map(nicText)))}
      ${row('System', f === null ? '' : `${f.os}, kernel ${f.kernel}`)}
      ${row('Versions', `Flotilla ${v.version}${s?.qemu ? `, QEMU ${s.qemu}` : ''}${s?.libvirt ? `, libvirt ${s.libvirt}` : ''}`)}
      ${row('Booted', s ? moment(s.upSinceMs) : '')}
      ${row('Certificate', v.certificate === null ? '' : html`until ${moment(v.certificate.expiresMs)}, fingerprint <code>${v.certificate.fingerprint.slice(0, 16)}…</code>`)}
      ${row('Agent', `since ${moment(v.agent.startedMs)}, ${memory(v.agent.rssBytes)} of memory, event loop late by ${Math.round(v.agent.lagSeconds * 1000)} ms or less in 99 of 100 turns`)}
      ${row('Refused', refused.length === 0 ? 'nothing since the agent started' : refused.map(([kind, n]) => `${n} ${kind}`).join(', '))}
    </dl>
    ${f === null ? html`<p class="quiet">Facts about the hardware are being collected.</p>` : ''}`;
}

const driveText = (d: NodeDrive): string =>
  `${d.device}: ${d.model === '' ? 'drive' : d.model}${d.serial === '' ? '' : ` ${d.serial}`}, ${bytes(d.sizeBytes)}, ${d.use === 'empty' ? 'empty' : d.text}${d.health === null ? '' : d.health.well ? ', well' : `, ${d.health.text}`}`;

function nicText(n: {
  name: string;
  mac: string;
  addresses: readonly string[];
  mbit: number | null;
  up: boolean;
}): string {
  const speed = n.mbit === null ? '' : `, ${n.mbit} Mbit/s`;
  return `${n.name}: ${n.up ? 'up' : 'down'}${speed}${n.addresses.length === 0 ? '' : `, ${n.addresses.join(', ')}`} (${n.mac})`;
}
