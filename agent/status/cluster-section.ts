import { html } from 'hono/html';
import { presence, suspectAfterMs } from '../../core/domain/node.js';
import type { HeardNode } from '../env.js';
import { cell, type Part } from './node-sections.js';
import type { StatusView } from './view.js';
import { bytes, count, duration, list, memory, percent } from './words.js';

/** A matrix of more nodes is not read by anyone: beyond it only the pairs that do not hear each other are listed. */
const matrixNodesMax = 16;
/** Pairs listed of those. */
const pairsShownMax = 50;
/** A reading that old says nothing about now. */
const hearsOldMs = 60_000;

/** The whole cluster as heard by radio, with the age of each line. */
export function clusterSection(v: StatusView): Part {
  return html`<h2>The cluster, as heard here by radio</h2>
    <table class="cards">
      <thead>
        <tr>
          <th scope="col">Node</th>
          <th scope="col">Heard</th>
          <th scope="col">State is of</th>
          <th scope="col">VMs</th>
          <th scope="col">CPU</th>
          <th scope="col">Memory</th>
          <th scope="col">Pools free</th>
          <th scope="col">Health</th>
        </tr>
      </thead>
      <tbody>
        ${v.heard.map((h) => nodeRow(v, h))}
      </tbody>
    </table>`;
}

const asleepText = { level: 'ok', text: 'asleep' } as const;

/** Whether a node is heard, in words. */
export function presenceText(h: HeardNode): { level: 'ok' | 'warn' | 'bad'; text: string } {
  if (h.agentGone) return { level: 'bad', text: 'agent ended without goodbye' };
  const age = h.beatAgeMs;
  switch (presence(age)) {
    case 'here':
      return { level: 'ok', text: `${duration(age ?? 0)} ago` };
    case 'suspect':
      return { level: 'warn', text: `silent for ${duration(age ?? 0)}` };
    case 'silent':
      return { level: 'bad', text: `silent for ${duration(age ?? 0)}` };
    case 'never-heard':
      return {
        level: 'bad',
        text: h.connected ? 'its broker answers, its agent says nothing' : 'never heard',
      };
  }
}

function nodeRow(v: StatusView, h: HeardNode): Part {
  const s = h.state;
  const self = h.node === v.node;
  const p = v.asleep.includes(h.node) ? asleepText : presenceText(h);
  const phases = [...h.vms.values()].map((l) => l.state.phase);
  const running = phases.filter((x) => x === 'running').length;
  const ill = s?.health.filter((x) => !x.ok) ?? [];
  const pools =
    s?.pools.map((x) => `${x.pool} ${bytes(x.freeBytes)}${x.ok ? '' : ' (not well)'}`).join(', ') ?? '';
  const health =
    s === null
      ? ''
      : ill.length === 0
        ? html`<span class="ok">well</span>`
        : html`<span class="bad">${ill.map((x) => `${x.part}: ${x.text}`).join('; ')}</span>`;
  return html`<tr>
    <th scope="row">${h.node}${self ? ' (this node)' : ''}</th>
    ${cell('Heard', self ? '' : html`<span class="${p.level}">${p.text}</span>${h.connected ? '' : html`<br /><span class="warn">no connection to its broker</span>`}`)}
    ${cell('State is of', h.stateAgeMs === null ? '' : `${duration(h.stateAgeMs)} ago`, 'n')}
    ${cell('VMs', phases.length === 0 ? '0' : `${running} of ${phases.length} run`, 'n')}
    ${cell('CPU', s === null ? '' : `${Math.round(s.cpuUsedPct)} % of ${count(s.cpus, 'CPU')}`, 'n')}
    ${cell('Memory', s === null ? '' : `${percent(s.memoryUsedBytes, s.memoryBytes)} of ${memory(s.memoryBytes)}`, 'n')}
    ${cell('Pools free', pools, 'n')} ${cell('Health', health)}
  </tr>`;
}

/** Age of the last beat of `speaker` at `listener`, ms; null: not heard; undefined: the listener has not told. */
function hearing(v: StatusView, listener: HeardNode, speaker: string): number | null | undefined {
  if (listener.node === v.node) return v.heard.find((h) => h.node === speaker)?.beatAgeMs ?? null;
  if (listener.state === null || (listener.stateAgeMs ?? Infinity) > hearsOldMs) return undefined;
  return listener.state.hears[speaker] ?? null;
}

const hears = (age: number | null | undefined): boolean => typeof age === 'number' && age < suspectAfterMs;

/** Who hears whom: a link that is cut in one direction only is seen here and nowhere else. */
export function matrixSection(v: StatusView): Part {
  if (v.heard.length < 2) return html``;
  const deaf = v.heard.flatMap((l) =>
    v.heard
      .filter((s) => s.node !== l.node)
      .map((s) => ({ listener: l.node, speaker: s.node, age: hearing(v, l, s.node) }))
      .filter((p) => p.age !== undefined && !hears(p.age)),
  );
  const mute = v.heard.filter((l) =>
    v.heard.some((s) => s.node !== l.node && hearing(v, l, s.node) === undefined),
  );
  const untold =
    mute.length === 0
      ? ''
      : html`<p class="quiet">
          What ${list(mute.map((m) => m.node))} ${mute.length === 1 ? 'hears' : 'hear'} is not known here.
        </p>`;
  if (v.heard.length > matrixNodesMax) {
    const pairs = deaf.slice(0, pairsShownMax);
    return html`<h2>Who hears whom</h2>
      ${
        deaf.length === 0
          ? html`<p>All that told hear all others.</p>`
          : html`<ul class="plain">
              ${pairs.map((p) => html`<li class="bad">${p.listener} does not hear ${p.speaker}</li>`)}
            </ul>`
      }
      ${deaf.length > pairs.length ? html`<p class="quiet">And ${deaf.length - pairs.length} more pairs.</p>` : ''}
      ${untold}`;
  }
  return html`<h2>Who hears whom</h2>
    <p class="quiet">
      Each line is a listener; the time is the age of the last beat it had when it last told.
    </p>
    <div class="wide" role="region" aria-label="Who hears whom" tabindex="0">
      <table>
        <thead>
          <tr>
            <th scope="col">listens</th>
            ${v.heard.map((s) => html`<th scope="col">${s.node}</th>`)}
          </tr>
        </thead>
        <tbody>
          ${v.heard.map(
            (l) =>
              html`<tr>
                <th scope="row">${l.node}</th>
                ${v.heard.map((s) => matrixCell(v, l, s))}
              </tr>`,
          )}
        </tbody>
      </table>
    </div>
    ${untold}`;
}

function matrixCell(v: StatusView, l: HeardNode, s: HeardNode): Part {
  if (l.node === s.node) return html`<td class="quiet">itself</td>`;
  const age = hearing(v, l, s.node);
  if (age === undefined) return html`<td class="quiet">not known</td>`;
  if (age === null) return html`<td class="bad">does not hear</td>`;
  return html`<td class="n ${hears(age) ? 'ok' : 'bad'}">${duration(age)}</td>`;
}
