import { html } from 'hono/html';
import { haBanner } from '../http/ha-banner.js';
import { stylesheetPath } from '../http/style.js';
import { clusterSection, matrixSection } from './cluster-section.js';
import {
  aboutSection,
  eventsSection,
  partsSection,
  poolsSection,
  vmsSection,
  type Part,
} from './node-sections.js';
import { localSection, type LocalView } from './local-section.js';
import { haSection } from './ha-section.js';
import { verdict } from './verdict.js';
import type { StatusView } from './view.js';
import { moment } from './words.js';

/** Seconds between two fetches of the page; the server sends it as a header. */
export interface PageOptions {
  /** True: the reader stopped the refreshing. */
  readonly still: boolean;
  /** What the reader may do here by hand; absent: nothing. */
  readonly local?: LocalView;
}

/**
 * The node's page: is it well, what runs here, how is the rest of the cluster as far as it is heard. Rendered whole
 * from plain data, without JavaScript; it needs neither ledger nor controller. Everything from outside is escaped.
 */
export async function statusPage(v: StatusView, o: PageOptions): Promise<string> {
  const { level, sentence, needs } = verdict(v);
  const cluster = v.clusterName === null ? '' : ` of cluster ${v.clusterName}`;
  const need = (n: (typeof needs)[number]): Part =>
    html`<li>
      <strong class="${n.level}">${n.level === 'bad' ? 'Failure' : 'Warning'}:</strong> ${n.text}
    </li>`;
  const page = await html`<!doctype html>
    <html lang="en">
      <head>
        <meta charset="utf-8" />
        <meta name="viewport" content="width=device-width, initial-scale=1" />
        <meta name="color-scheme" content="light dark" />
        <title>${level === 'ok' ? '' : '⚠ '}${v.node}${cluster}</title>
        <link rel="icon" href="data:," />
        <link rel="stylesheet" href="${stylesheetPath}" />
      </head>
      <body>
        <header>
          <h1>${v.node}</h1>
          <p class="quiet">node${cluster}</p>
          <p class="quiet">
            as of ${moment(v.wallMs)},
            ${o.still ? html`standing still: <a href="/">refresh every 5 s</a>` : html`every 5 s: <a href="/?still">stop</a>`}
          </p>
          <div class="end">
            <a href="/metrics">metrics</a>
            <form method="post" action="/logout"><button type="submit">log out</button></form>
          </div>
        </header>
        <main>
          ${v.policy === null ? '' : haBanner(v.policy)}
          <div class="verdict ${level}" role="status">
            <p>${sentence}</p>
            ${
              needs.length === 0
                ? ''
                : html`<ul>
                    ${needs.map(need)}
                  </ul>`
            }
          </div>
          ${vmsSection(v)}
          ${
            o.local === undefined
              ? ''
              : o.still
                ? localSection(v, o.local)
                : html`<p><a href="/?still#by-hand">Act by hand, at this node alone</a></p>`
          }
          ${haSection(v)} ${clusterSection(v)} ${matrixSection(v)} ${poolsSection(v)} ${eventsSection(v)}
          ${partsSection(v)} ${aboutSection(v)}
        </main>
      </body>
    </html>`;
  return String(page);
}
