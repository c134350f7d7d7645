import type { ErrorRecord } from '../domain/error.js';

/** What programs say when the node, and not the VM, is why a machine does not start. @see QEMU 10, libvirt 11 */
const words = new RegExp(
  [
    // Memory, QEMU and its accelerator.
    'Cannot allocate memory|Cannot check QEMU binary|KVM kernel module|failed to initialize kvm',
    // Images that cannot be opened or read, and the disks of the node itself.
    "Cannot access storage file|Could not open '|Input/output error|Stale file handle",
    'Transport endpoint is not connected|No space left on device|Read-only file system',
    '\\bE(?:IO|NOMEM|NOSPC|ROFS)\\b|The ownership journal',
  ].join('|'),
  'i',
);

/** A start failed for a reason that another node need not have. A disk that is locked is locked for all. */
export function isNodeFault(e: ErrorRecord): boolean {
  if (e.code === 'disk-locked') return false;
  return e.code === 'pool-unavailable' || words.test([e.message, ...e.causes].join('\n'));
}
