import { html } from 'hono/html';
import { failoverLine } from '../../core/domain/failover-words.js';
import type { HaNode, HaView, VmRow } from '../../core/wire/rest.js';

type Part = ReturnType<typeof html>;

/** VMs and failovers listed; the command line lists all. */
const listedMax = 50;

/** Protection in a sentence, and what is not as it should be. */
export function haSection(h: HaView): Part {
  const ill = h.nodes.filter((n) => n.keeper === null || !n.keeper.armable || n.keeper.mode !== 'run');
  return html`<h2 id="ha">High availability</h2>
    <p>${h.sentence}</p>
    ${list(
      'VMs that wait for a failover',
      h.waiting.map((v) => html`<strong>${v.name}</strong> <span class="bad">waits:</span> ${v.text}`),
    )}
    ${list(
      'VMs that are not protected',
      h.unprotected.map(
        (v) =>
          html`<strong>${v.name}</strong> <span class="warn">on ${v.node ?? 'no node'}:</span> ${v.text}`,
      ),
    )}
    ${h.policy.wanted === 0 ? '' : list('Nodes that could not take VMs over', ill.map(nodeLine))}
    ${list(
      'Last failovers',
      h.failovers.map(
        (f) =>
          html`<strong>${f.name}</strong>
            <span class="${f.state === 'done' ? 'ok' : f.state === 'failed' ? 'bad' : 'warn'}"
              >${f.state}</span
            >
            ${f.timeline === null ? f.step : failoverLine(f.timeline)}`,
      ),
    )}`;
}

function nodeLine(n: HaNode): Part {
  const k = n.keeper;
  const why =
    k === null
      ? n.presence === 'here'
        ? 'its keeper does not answer'
        : 'it is not heard'
      : k.mode !== 'run'
        ? k.text || (k.mode === 'ice' ? 'it has frozen its VMs: no good renewal of its lease' : 'it thaws')
        : k.why;
  const said = n.failover === '' ? '' : html`; it says: ${n.failover}`;
  return html`<strong>${n.node}</strong> <span class="warn">${why}</span>${said}`;
}

function list(head: string, lines: readonly Part[]): Part {
  if (lines.length === 0) return html``;
  return html`<h3>${head}</h3>
    <ul class="plain">
      ${lines.slice(0, listedMax).map((l) => html`<li>${l}</li>`)}
      ${lines.length > listedMax ? html`<li class="quiet">and ${lines.length - listedMax} more</li>` : ''}
    </ul>`;
}

const level = { off: 'quiet', protected: 'ok', unprotected: 'bad', paused: 'warn' } as const;

/** A VM's protection in the table of VMs. */
export function haCell({ ha }: VmRow): Part {
  const word =
    ha.state === 'protected' && ha.standby !== null
      ? `standby ${ha.standby}`
      : ha.state === 'unprotected'
        ? 'not protected'
        : ha.state;
  return html`<td data-label="HA"><span class="${level[ha.state]}">${word}</span></td>`;
}
