import type { ErrorRecord } from '../domain/error.js';
import type { Op } from '../domain/op.js';
import type { VmSpec } from '../domain/vm.js';
import type { VmDecision, VmView } from './vm-view.js';

/** How an unfinished op of a VM stands after a pass. Null: still under way. */
export function opVerdict(
  op: Op,
  v: VmView,
  d: VmDecision,
):
  | { readonly state: 'done' | 'cancelled'; readonly step: string }
  | { readonly state: 'failed'; readonly error: ErrorRecord }
  | null {
  const { spec, own } = v;
  if (spec === null || own === null || own.owner !== v.me) return null;
  const off = own.state === 'stopped' && v.domain?.active !== true;
  const wantsPower = (p: VmSpec['power']): boolean => spec.power === p;
  const superseded = { state: 'cancelled', step: 'a later request took its place' } as const;
  const broken = v.disks.find((x) => x.state === 'failed' && x.error !== null);
  switch (op.kind) {
    case 'vm.create':
      if (broken?.error) return { state: 'failed', error: broken.error };
      if (wantsPower('stopped')) return d.phase === 'stopped' ? { state: 'done', step: 'made' } : null;
      return d.phase === 'running' || d.phase === 'paused'
        ? { state: 'done', step: 'made and started' }
        : null;
    case 'vm.start':
      if (!wantsPower('running')) return superseded;
      return d.phase === 'running' ? { state: 'done', step: 'running' } : null;
    case 'vm.stop':
    case 'vm.force-stop':
      if (!wantsPower('stopped')) return superseded;
      return off ? { state: 'done', step: v.memory.note || 'stopped' } : null;
    case 'vm.pause':
      if (!wantsPower('paused')) return superseded;
      return d.phase === 'paused' ? { state: 'done', step: 'paused' } : null;
    case 'vm.resume':
      if (!wantsPower('running')) return superseded;
      return d.phase === 'running' ? { state: 'done', step: 'running' } : null;
    case 'vm.reboot':
    case 'vm.reset':
      // The step marks it running before it acts: found so by a later pass, the request went out (or the agent
      // died around it); it is not sent twice.
      if (off) return { state: 'cancelled', step: 'the VM is not running' };
      return op.state === 'running' ? { state: 'done', step: 'asked' } : null;
    case 'vm.revert':
      // Until it is written its owner's desk has it.
      if (op.args['generation'] === undefined) return null;
      if (broken?.error) return { state: 'failed', error: broken.error };
      return v.disks.some((x) => x.state === 'deleting' || x.state === 'wanted')
        ? null
        : { state: 'done', step: 'its disks are as they were' };
    case 'vm.update': {
      if (broken?.error) return { state: 'failed', error: broken.error };
      const settled = d.step.do === 'none' && d.make.length === 0;
      const pending = v.diff?.pendingRestart.length ?? 0;
      if (!settled || v.disks.some((x) => x.state === 'deleting' || x.state === 'wanted')) return null;
      // One that is not in the machine grows when that is off.
      const inside = new Set(spec.disks.flatMap((x) => (x.detached === true ? [] : [x.disk])));
      if (v.disks.some((x) => inside.has(x.id) && x.state === 'ready' && x.madeBytes < x.sizeBytes))
        return null;
      return { state: 'done', step: pending > 0 ? 'the rest comes with the next restart' : 'applied' };
    }
    case 'vm.relocate':
      if (op.cancelAsked || own.sync === 'stale') return { state: 'cancelled', step: `stays on ${v.me}` };
      if (broken?.error) return { state: 'failed', error: broken.error };
      return wantsPower('stopped')
        ? null
        : { state: 'cancelled', step: 'it is to run: only what is off is relocated' };
    // These finish where they are done.
    case 'vm.failover':
    case 'vm.migrate':
    case 'vm.standby':
    case 'vm.repair':
    case 'vm.move-disk':
    case 'vm.bulk':
    case 'vm.export':
    case 'vm.snapshot':
    case 'vm.delete':
    case 'image.import':
    case 'image.delete':
    case 'node.update':
    case 'node.reboot':
    case 'cluster.rolling':
    case 'cluster.rotate-ca':
    case 'disk.delete':
    case 'node.drain':
    case 'node.return':
    case 'node.sleep':
    case 'node.wake':
    case 'vapp.deploy':
    case 'vapp.clone':
    case 'vapp.update':
    case 'vapp.start':
    case 'vapp.stop':
    case 'vapp.suspend':
    case 'vapp.resume':
    case 'vapp.restart':
    case 'vapp.delete':
    case 'class.update':
    case 'template.create':
      return null;
  }
}
