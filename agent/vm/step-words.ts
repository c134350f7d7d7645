import type { VmStep } from '../../core/decide/vm-view.js';
import { FlotillaError } from '../../core/domain/error.js';
import { LibvirtError } from '../libvirt/hypervisor.js';

/** What a step that went well did, for the list of events; null: not worth a line. */
export function stepText(step: VmStep): string | null {
  switch (step.do) {
    case 'start':
      return step.crashed ? 'the machine died without a shutdown; started again' : 'started';
    case 'destroy':
      return `forced off: ${step.why}`;
    case 'settle':
      return step.note === '' ? 'is off' : `is off: ${step.note}`;
    case 'adopt':
      return 'found running, taken over';
    case 'take-in':
      return 'has migrated here';
    case 'yield':
      return `given over to ${step.to}: ${step.why}`;
    case 'delete':
      return 'deleted';
    case 'relocate':
      return 'has another owner now';
    case 'remove-foreign':
      return 'removed here: another node owns it';
    case 'reboot':
    case 'reset':
    case 'pause':
    case 'resume':
      return step.do;
    case 'apply':
      return `changed while running: ${step.step.do}`;
    case 'reset-hung':
      return 'reset: its guest agent has not answered for a minute';
    case 'arm':
      return 'armed: it freezes with this node and may be taken over';
    case 'disarm':
      return `disarmed: ${step.why}`;
    case 'set-standby':
      return step.node === null ? 'has no standby now' : `its standby is ${step.node}`;
    case 'none':
    case 'ask-stop':
    case 'grow-disk':
    case 'remove-disk':
      return null;
  }
}

/** QEMU's words for an image whose lock somebody else holds. @see QEMU 10, block/file-posix.c */
const diskLock =
  /Failed to get (?:shared )?"(?:write|consistent read)" lock|Is another process using the image/;

/** Puts a failed step into words of this product, with the lower error as cause. */
export function stepError(step: VmStep, name: string, e: unknown): FlotillaError {
  if (e instanceof FlotillaError) return e;
  const what = `VM "${name}": ${step.do} failed`;
  if (e instanceof LibvirtError && step.do === 'start' && diskLock.test(e.message)) {
    return new FlotillaError('disk-locked', `VM "${name}": its disk is still locked by another machine`, {
      hint: 'The machine of its former owner lets go when it ends, or the storage when it gives that node up; the agent tries again.',
      cause: e,
    });
  }
  if (e instanceof LibvirtError) {
    const away = ['disconnected', 'closed', 'overloaded'].includes(e.code);
    return new FlotillaError(away ? 'hypervisor-unavailable' : 'hypervisor-error', `${what}: ${e.message}`, {
      hint: away
        ? 'The agent tries again as soon as libvirt answers.'
        : "The cause is libvirt's own text. Mend it and start the VM again.",
      cause: e,
    });
  }
  return new FlotillaError('internal', what, { hint: "See the agent's journal on the node.", cause: e });
}

/** A disk's lock that nobody let go of in all the time that a dead or frozen machine may keep it. */
export const lockStuck = (name: string, waitedMs: number, cause: FlotillaError): FlotillaError =>
  new FlotillaError(
    'disk-locked',
    `VM "${name}": its disk is still locked by another machine after ${Math.round(waitedMs / 1000)} s`,
    {
      hint: 'Somebody still has the disk open: a node that is cut off with this VM frozen on it and does not reach the pool, or a program outside Flotilla. Power that node off or end the program; the agent tries again every minute, and sooner after a start.',
      cause,
    },
  );

/** Failures that say "look again", not "it cannot be done". */
export const isTransient = (e: FlotillaError): boolean =>
  e.code === 'stale-view' || e.code === 'ledger-unavailable' || e.code === 'hypervisor-unavailable';
