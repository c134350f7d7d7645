import { html } from 'hono/html';
import type { KeeperState } from '../env.js';
import type { Part } from './node-sections.js';
import { ownLines, type StatusView } from './view.js';
import { duration } from './words.js';

/** VMs named in a list; a node has tens. */
const namedMax = 100;

const modes: Readonly<Record<KeeperState['mode'], { level: string; text: string }>> = {
  run: { level: 'ok', text: 'runs: this node holds its lease, VMs may run' },
  ice: { level: 'bad', text: 'has frozen the armed VMs: no good renewal of the lease for too long' },
  thaw: { level: 'warn', text: 'thaws: the ledger answers again, who owns the VMs is being read' },
};

const watchdogs: Readonly<Record<KeeperState['watchdog']['kind'], string>> = {
  hardware: 'hardware',
  software: 'software: of no use when the kernel itself hangs',
  pipe: 'a pipe in place of a device: for tests',
  none: 'none',
};

/** The name of a VM as this node says it, else its id. */
export const vmName = (v: StatusView, id: string): string => ownLines(v)?.vms.get(id)?.state.name ?? id;

/** Age of the last good renewal, ms; null: none yet, or no keeper. */
export const renewalAgeMs = (v: StatusView): number | null =>
  v.keeper === null || v.keeper.goodMs === null ? null : Math.max(0, v.nowMs - v.keeper.goodMs);

/** What this node's keeper does and holds. It needs neither ledger nor controller. */
export function haSection(v: StatusView): Part {
  const k = v.keeper;
  if (k === null)
    return html`<h2>High availability</h2>
      <p>
        <span class="bad">The keeper does not answer:</span> nothing can be started here, and no VM is
        protected.
      </p>`;
  const age = renewalAgeMs(v);
  const mode = modes[k.mode];
  const row = (name: string, content: Part | string): Part =>
    html`<dt>${name}</dt>
      <dd>${content}</dd>`;
  const lines = (items: readonly (Part | string)[]): Part => {
    const shown = items.slice(0, namedMax);
    const more = items.length - shown.length;
    return html`${shown.map((i, n) => html`${n === 0 ? '' : html`<br />`}${i}`)}${more > 0 ? html`<br />and ${more} more` : ''}`;
  };
  const watchdog =
    k.watchdog.kind === 'none'
      ? html`<span class="bad">none</span>`
      : `${watchdogs[k.watchdog.kind]}; resets this node ${duration(k.watchdog.timeoutMs)} after the last pet`;
  const armable = k.armable.ok
    ? html`<span class="ok">yes</span>; others wait ${duration(k.armable.waitMs)} before they take one of its
        VMs`
    : html`<span class="warn">no:</span> ${k.armable.why}`;
  return html`<h2>High availability</h2>
    <dl>
      ${row('Keeper', html`<span class="${mode.level}">${mode.text}</span>${k.text === '' ? '' : html`; ${k.text}`}`)}
      ${row('Last good renewal', age === null ? html`<span class="bad">none yet</span>` : `sent ${duration(age)} ago`)}
      ${row('Watchdog', watchdog)} ${row('Would arm a VM', armable)}
      ${row('Armed VMs', k.armed.length === 0 ? 'none: this node is never reset' : lines(k.armed.map((id) => vmName(v, id))))}
      ${
        k.held.length === 0
          ? ''
          : row(
              'Held VMs',
              lines(k.held.map((h) => html`<strong class="bad">${vmName(v, h.vm)}:</strong> ${h.why}`)),
            )
      }
      ${v.policy === null ? row('Policy', html`<span class="quiet">not read from the ledger yet</span>`) : ''}
    </dl>`;
}
