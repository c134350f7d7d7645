import { html } from 'hono/html';
import { haBanner } from '../../agent/http/ha-banner.js';
import { stylesheetPath } from '../../agent/http/style.js';
import { formatSize, formatSpan } from '../../core/domain/units.js';
import type { ClusterView, NodeView, OpView, PoolView, VmRow } from '../../core/wire/rest.js';
import { clusterView } from '../api/cluster.js';
import { haView } from '../ha-view.js';
import type { View } from '../view.js';
import { haCell, haSection } from './ha.js';

type Part = ReturnType<typeof html>;

/** Rows shown of a long list; the rest is counted. The command line and the API show all. */
const rowsMax = 500;
const opsShown = 20;

/**
 * The first page: is all well, what wants a hand, nodes, VMs, operations, capacity. Rendered whole, without
 * JavaScript; everything from outside is escaped by `html`.
 */
export async function overviewPage(
  view: View,
  version: string,
  o: { still: boolean; wallMs: number },
): Promise<string> {
  const c = clusterView(view, version);
  const ha = haView(view);
  const nodes = view.list('node').map((x) => x.view);
  const vms = view.list('vm').map((x) => x.view);
  const pools = view.list('pool').map((x) => x.view);
  const ops = view.list('op').map((x) => x.view);
  const level = c.well ? 'ok' : c.concerns.some((x) => x.level === 'error') ? 'bad' : 'warn';
  const name = c.meta?.name ?? 'Flotilla';
  const page = await html`<!doctype html>
    <html lang="en">
      <head>
        <meta charset="utf-8" />
        <meta name="viewport" content="width=device-width, initial-scale=1" />
        <meta name="color-scheme" content="light dark" />
        <title>${level === 'ok' ? '' : '⚠ '}${name}</title>
        <link rel="icon" href="data:," />
        <link rel="stylesheet" href="${stylesheetPath}" />
      </head>
      <body>
        <header>
          <h1>${name}</h1>
          <p class="quiet">cluster</p>
          <p class="quiet">
            ledger read ${formatSpan(c.ageMs)} ago,
            ${o.still ? html`standing still: <a href="/">refresh every 5 s</a>` : html`every 5 s: <a href="/?still">stop</a>`}
          </p>
          <div class="end">
            <a href="/api/v1/openapi.json">API</a>
            <form method="post" action="/logout"><button type="submit">log out</button></form>
          </div>
        </header>
        <main>
          ${haBanner(ha.policy)} ${verdict(c, level)} ${haSection(ha)} ${capacity(c)}
          ${nodeTable(nodes, o.wallMs)} ${vmTable(vms, o.wallMs)} ${opTable(ops, o.wallMs)}
          ${poolTable(pools)}
        </main>
        <footer class="quiet">Flotilla ${version}</footer>
      </body>
    </html>`;
  return String(page);
}

function verdict(c: ClusterView, level: string): Part {
  return html`<div class="verdict ${level}" role="status">
    <p>${c.sentence}</p>
    ${
      c.concerns.length === 0
        ? ''
        : html`<ul>
            ${c.concerns
              .slice(0, 50)
              .map(
                (x) =>
                  html`<li>
                    <strong class="${x.level === 'error' ? 'bad' : 'warn'}">${x.subject}:</strong> ${x.text}
                  </li>`,
              )}
            ${c.concerns.length > 50 ? html`<li>and ${c.concerns.length - 50} more</li>` : ''}
          </ul>`
    }
  </div>`;
}

function capacity(c: ClusterView): Part {
  const { capacity: k } = c;
  const line = (label: string, used: number, of: number, text: string): Part =>
    html`<dt>${label}</dt>
      <dd><meter min="0" max="${of}" value="${Math.min(used, of)}">${text}</meter> ${text}</dd>`;
  return html`<h2>Capacity</h2>
    <dl>
      ${line('Memory used', k.memoryUsedBytes, k.memoryBytes, `${formatSize(k.memoryUsedBytes)} of ${formatSize(k.memoryBytes)}`)}
      ${line('Memory promised', k.memoryCommittedBytes, k.memoryBytes, `${formatSize(k.memoryCommittedBytes)} to ${c.counts.vms} VMs`)}
      ${line('vCPUs promised', k.cpusCommitted, Math.max(k.cpus, k.cpusCommitted), `${k.cpusCommitted} on ${k.cpus} CPUs`)}
      ${line('Pools', k.poolBytes - k.poolFreeBytes, k.poolBytes, `${formatSize(k.poolFreeBytes)} of ${formatSize(k.poolBytes)} free`)}
    </dl>`;
}

function nodeTable(nodes: readonly NodeView[], wallMs: number): Part {
  return html`<h2 id="nodes">Nodes</h2>
    ${
      nodes.length === 0
        ? html`<p class="quiet">None has joined yet.</p>`
        : html`<table class="cards">
            <thead>
              <tr>
                <th scope="col">Name</th>
                <th scope="col">State</th>
                <th scope="col">VMs</th>
                <th scope="col">CPU</th>
                <th scope="col">Memory</th>
                <th scope="col">Address</th>
              </tr>
            </thead>
            <tbody>
              ${nodes.map((n) => nodeRow(n, wallMs))}
            </tbody>
          </table>`
    }`;
}

function nodeRow(n: NodeView, wallMs: number): Part {
  const level = n.presence === 'here' ? 'ok' : n.presence === 'suspect' ? 'warn' : 'bad';
  const age = n.presence !== 'here' && n.heardMs !== null ? ` for ${formatSpan(wallMs - n.heardMs)}` : '';
  const s = n.state;
  return html`<tr>
    <th scope="row">${n.id}</th>
    <td data-label="State">
      <span class="${level}">${n.presence}${age}</span>
      ${n.record.desired === 'active' ? '' : html` <span class="warn">${n.record.desired}</span>`}
    </td>
    <td data-label="VMs" class="n">${n.vms}</td>
    <td data-label="CPU" class="n">${s === null ? '–' : `${Math.round(s.cpuUsedPct)} % of ${s.cpus}`}</td>
    <td data-label="Memory" class="n">
      ${s === null ? '–' : `${formatSize(s.memoryUsedBytes)} of ${formatSize(s.memoryBytes)}`}
    </td>
    <td data-label="Address">${n.record.addresses[0]}</td>
  </tr>`;
}

function vmTable(vms: readonly VmRow[], wallMs: number): Part {
  const shown = vms.slice(0, rowsMax);
  return html`<h2 id="vms">VMs</h2>
    ${
      vms.length === 0
        ? html`<p class="quiet">None yet. Make one: <code>flotilla vm create NAME --image IMAGE</code></p>`
        : html`<table class="cards">
            ${
              vms.length > rowsMax
                ? html`<caption>
                    The first ${rowsMax} of ${vms.length}
                  </caption>`
                : ''
            }
            <thead>
              <tr>
                <th scope="col">Name</th>
                <th scope="col">State</th>
                <th scope="col">Node</th>
                <th scope="col">HA</th>
                <th scope="col">CPU</th>
                <th scope="col">Memory</th>
                <th scope="col">Addresses</th>
                <th scope="col">Up</th>
              </tr>
            </thead>
            <tbody>
              ${shown.map((v) => vmTableRow(v, wallMs))}
            </tbody>
          </table>`
    }`;
}

const phaseLevel: Partial<Record<VmRow['phase'], string>> = {
  running: 'ok',
  crashed: 'bad',
  failed: 'bad',
  unknown: 'warn',
  stopped: 'quiet',
};

function vmTableRow(v: VmRow, wallMs: number): Part {
  const notes = [
    v.reason,
    ...(v.pendingRestart.length > 0 ? [`waits for a restart: ${v.pendingRestart.join('; ')}`] : []),
  ];
  return html`<tr>
    <th scope="row">${v.name}</th>
    <td data-label="State">
      <span class="${phaseLevel[v.phase] ?? 'warn'}">${v.phase}</span>
      <span class="quiet">${notes.filter((n) => n !== '').join('; ')}</span>
    </td>
    <td data-label="Node">${v.node ?? '–'}</td>
    ${haCell(v)}
    <td data-label="CPU" class="n">${v.cpus}${v.cpuPct === null ? '' : `, ${Math.round(v.cpuPct)} %`}</td>
    <td data-label="Memory" class="n">${v.memoryMiB} MiB</td>
    <td data-label="Addresses" class="${v.addresses.length === 0 ? 'empty' : ''}">
      ${v.addresses.join(', ')}
    </td>
    <td data-label="Up" class="n${v.upSinceMs === null ? ' empty' : ''}">
      ${v.upSinceMs === null ? '' : formatSpan(wallMs - v.upSinceMs)}
    </td>
  </tr>`;
}

function opTable(ops: readonly OpView[], wallMs: number): Part {
  return html`<h2 id="ops">Operations</h2>
    ${
      ops.length === 0
        ? html`<p class="quiet">None lately.</p>`
        : html`<ul class="plain">
            ${ops.slice(0, opsShown).map((o) => {
              const level =
                o.state === 'failed'
                  ? 'bad'
                  : o.state === 'done'
                    ? 'ok'
                    : o.state === 'cancelled'
                      ? 'quiet'
                      : 'warn';
              return html`<li>
                <span class="${level}">${o.state}</span> ${o.kind} <strong>${o.subject.name}</strong>
                ${
                  o.progress !== null && (o.state === 'running' || o.state === 'queued')
                    ? html`<progress max="1" value="${o.progress}"></progress> ${Math.round(o.progress * 100)}
                        %`
                    : ''
                }
                <span class="quiet">
                  ${o.error?.message ?? o.step} – ${o.askedBy}, ${formatSpan(wallMs - o.createdMs)} ago
                </span>
              </li>`;
            })}
          </ul>`
    }`;
}

function poolTable(pools: readonly PoolView[]): Part {
  return html`<h2 id="pools">Pools</h2>
    ${
      pools.length === 0
        ? html`<p class="quiet">None yet.</p>`
        : html`<table class="cards">
            <thead>
              <tr>
                <th scope="col">Pool</th>
                <th scope="col">Node</th>
                <th scope="col">Free</th>
                <th scope="col">Path</th>
              </tr>
            </thead>
            <tbody>
              ${pools.flatMap((p) =>
                (p.use.length === 0 ? [null] : p.use).map(
                  (u) =>
                    html`<tr>
                      <th scope="row">${p.name} <span class="quiet">${p.kind}</span></th>
                      <td data-label="Node">${u?.node ?? '–'}</td>
                      <td data-label="Free" class="n">
                        ${
                          u === null
                            ? 'nobody has said'
                            : u.ok
                              ? `${formatSize(u.freeBytes)} of ${formatSize(u.totalBytes)}`
                              : html`<span class="bad">${u.text}</span>`
                        }
                      </td>
                      <td data-label="Path"><code>${p.path}</code></td>
                    </tr>`,
                ),
              )}
            </tbody>
          </table>`
    }`;
}
