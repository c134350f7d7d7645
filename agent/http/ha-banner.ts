import { html } from 'hono/html';
import type { Policy } from '../../core/domain/ha.js';

/**
 * What holds for high availability in the whole cluster and nobody may overlook, for the head of every page; nothing
 * where all is as usual.
 */
export function haBanner({ ha }: Pick<Policy, 'ha'>): ReturnType<typeof html> {
  return html`${
    ha.unsafeWithoutWatchdog
      ? html`<p class="banner bad" role="alert">
          <strong>Unsafe:</strong> nodes without a watchdog may arm. If one hangs and does not die, its VMs
          may run twice. End it: <code>flotilla ha forbid-unsafe</code>
        </p>`
      : ''
  }
  ${
    ha.paused
      ? html`<p class="banner warn">
          <strong>HA is paused</strong> in the whole cluster: nothing freezes and nothing fails over. End it:
          <code>flotilla ha resume</code>
        </p>`
      : ''
  }
  ${
    ha.hold
      ? html`<p class="banner warn">
          <strong>Failovers are held:</strong> VMs of a lost node stay down until somebody lets go:
          <code>flotilla ha release</code>
        </p>`
      : ''
  }`;
}
