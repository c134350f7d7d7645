import { html } from 'hono/html';
import type { Hold } from '../env.js';
import { logUnits } from '../local/app.js';
import { cell, type Part } from './node-sections.js';
import { ownLines, type StatusView } from './view.js';
import { moment } from './words.js';

/** What an admin can do at this node alone. */
export interface LocalView {
  readonly holds: ReadonlyMap<string, Hold>;
  /** Until when admins come in here by name and password without the ledger, wall ms; null: nobody does. */
  readonly accountsUntilMs: number | null;
}

/** Actions by hand, for when no controller answers. */
export function localSection(v: StatusView, l: LocalView): Part {
  const lines = [...(ownLines(v)?.vms.values() ?? [])].map((x) => x.state);
  const names = new Map(lines.map((s) => [s.vm, s.name]));
  const ids = [...new Set([...names.keys(), ...l.holds.keys()])].sort((a, b) =>
    (names.get(a) ?? a).localeCompare(names.get(b) ?? b),
  );
  const until = l.accountsUntilMs;
  return html`<h2 id="by-hand">By hand, at this node alone</h2>
    <p class="quiet">
      For when no controller answers. A VM that is held is forced off, as if its power cord were pulled, and
      stays off at this node until somebody lets go of it; then it starts only if the ledger answers and wants
      it. If this node fails, its standby starts it all the same.
      ${until === null ? 'No admin can log in here by password without the ledger.' : html`Admins can log in here by password without the ledger until ${moment(until)}.`}
    </p>
    ${
      ids.length === 0
        ? html`<p class="quiet">No VM is here.</p>`
        : html`<table class="cards">
            <thead>
              <tr>
                <th scope="col">VM</th>
                <th scope="col">Held</th>
                <th scope="col">By hand</th>
              </tr>
            </thead>
            <tbody>
              ${ids.map((id) => row(id, names.get(id) ?? id, l.holds.get(id)))}
            </tbody>
          </table>`
    }
    <h3>Logs of this node</h3>
    <p>${logUnits.map((u) => html`<a href="/local/logs/${u}">${u}</a> `)}</p>
    <h3>If the ledger does not answer</h3>
    <ol>
      <li>
        Look below who hears whom: is it this node that is cut off, or are voters gone? Mend the network,
        switch nodes on.
      </li>
      <li>
        As long as the lost voters may come back, wait. Protected VMs freeze meanwhile and lose nothing.
      </li>
      <li>
        Only when a majority of them is gone for good: as root on each node that lives
        <code>flotilla-agent recover status</code>, then on the one with the newest data
        <code>flotilla-agent recover --i-know-others-are-off</code>; see recover.md in
        /usr/share/doc/flotilla.
      </li>
      <li>
        At the console of this machine root can do the same as this page: <code>flotilla-agent hold VM</code>,
        <code>flotilla-agent release VM</code>, <code>flotilla-agent held</code>.
      </li>
    </ol>`;
}

function row(id: string, name: string, hold: Hold | undefined): Part {
  return html`<tr>
    <th scope="row">${name}</th>
    ${cell('Held', hold === undefined ? 'no' : `by ${hold.by} since ${moment(hold.atMs)}`)}
    ${cell(
      'By hand',
      hold === undefined
        ? html`<form method="post" action="/local/hold">
            <input type="hidden" name="vm" value="${id}" />
            <label><input type="checkbox" name="sure" value="yes" required /> force ${name} off</label>
            <button type="submit">Hold it off</button>
          </form>`
        : html`<form method="post" action="/local/release">
            <input type="hidden" name="vm" value="${id}" />
            <button type="submit">Let go of ${name}</button>
          </form>`,
    )}
  </tr>`;
}
