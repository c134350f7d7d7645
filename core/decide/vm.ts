import type { Disk } from '../domain/disk.js';
import type { ErrorRecord } from '../domain/error.js';
import type { Op } from '../domain/op.js';
import type { VmOwn, VmPhase, VmSpec } from '../domain/vm.js';
import type { Arming, ArmStep } from './arming.js';
import { recoveryText } from '../domain/recovery.js';
import type { HardwareDiff, HotStep } from './hardware.js';

/** What Flotilla writes into a machine when it begins it, and reads back after a crash. */
export interface DomainMark {
  /** The ownership generation this run belongs to. */
  readonly gen: number;
  /** The spec's generation it was begun with. */
  readonly generation: number;
  /** Wall clock of the start: for people. */
  readonly startedMs: number;
}

/** A domain as one pass of the loop sees it, in libvirt's words for state and reason. */
export interface DomainView {
  readonly active: boolean;
  readonly state: string;
  readonly reason: string;
  /** Null: not ours. */
  readonly mark: DomainMark | null;
  readonly agentConnected: boolean;
  /** Disks in the machine now, by id. */
  readonly diskIds: readonly string[];
}

/** What the agent remembers of a VM between passes. Losing it costs time, never correctness. */
export interface VmMemory {
  /** A stop that is under way: monotonic ms. */
  readonly stop: { readonly sinceMs: number; readonly lastAskMs: number; readonly asked: number } | null;
  /** The last failed step, and since when it fails with that code. */
  readonly failure: {
    readonly atMs: number;
    readonly sinceMs: number;
    readonly count: number;
    readonly error: ErrorRecord;
  } | null;
  /** When a step of HA failed last: it is tried again apart, and fails nothing else. */
  readonly armFailedMs: number | null;
  /** When it was started or reset without being asked to, newest last; bounded by {@link restartsKeptMax}. */
  readonly crashesMs: readonly number[];
  /** Why the VM is as it is, where it is not plain from its state. */
  readonly note: string;
}

export const freshMemory: VmMemory = {
  stop: null,
  failure: null,
  armFailedMs: null,
  crashesMs: [],
  note: '',
};

/** What HA adds to the picture of one VM. */
export interface VmHaView {
  readonly arming: Arming;
  /** Its machine here is frozen with the node, or is being ended by the keeper. */
  readonly frozen: boolean;
  /** Failovers of the last hour: they count among its restarts. */
  readonly failovers: number;
  /** Its guest agent answered once in this run, and has been silent for so long, ms; null: it answers, or never did. */
  readonly silentMs: number | null;
  /** How long a start is tried each second while another machine holds the disk's lock, ms. */
  readonly lockPatienceMs: number;
}

/** Everything that decides what to do with one VM. */
export interface VmView {
  readonly me: string;
  readonly spec: VmSpec | null;
  readonly own: VmOwn | null;
  /** This node holds a live lease of this boot: without it nothing is started or written. */
  readonly live: boolean;
  /** A person has not yet confirmed who owns what: all is left as it is. */
  readonly recovering?: boolean;
  /** Null: libvirt knows no such domain. */
  readonly domain: DomainView | null;
  /** Every disk object of this VM. */
  readonly disks: readonly Disk[];
  /** Unfinished ops on this VM, oldest first. */
  readonly ops: readonly Op[];
  /** Wanted against running machine; null while it does not run or what is wanted cannot be built yet. */
  readonly diff: HardwareDiff | null;
  readonly memory: VmMemory;
  readonly ha: VmHaView;
}

export type VmStep =
  | { readonly do: 'none' }
  /** Take the next ownership generation, define afresh and start. */
  | {
      readonly do: 'start';
      readonly paused: boolean;
      readonly crashed: boolean;
      /** The keeper arms it first. */
      readonly arm: boolean;
      readonly inSlice: boolean;
    }
  | ArmStep
  /** The guest hangs: reset, as its HA asks for. */
  | { readonly do: 'reset-hung' }
  /** A running domain of ours has an older mark: take the next generation and mark it. */
  | { readonly do: 'adopt' }
  | { readonly do: 'ask-stop'; readonly how: 'agent' | 'acpi' }
  | { readonly do: 'destroy'; readonly why: string }
  /** It is down: write `stopped` to the ledger, and where the machine decided so itself, the spec's power too. */
  | { readonly do: 'settle'; readonly note: string; readonly powerOff: boolean }
  | { readonly do: 'pause' }
  | { readonly do: 'resume' }
  | { readonly do: 'reboot'; readonly op: Op; readonly how: 'agent' | 'acpi' }
  | { readonly do: 'reset'; readonly op: Op }
  | { readonly do: 'apply'; readonly step: HotStep }
  | { readonly do: 'grow-disk'; readonly disk: Disk; readonly live: boolean }
  | { readonly do: 'remove-disk'; readonly disk: Disk }
  | { readonly do: 'delete' }
  /** Another node owns it by a newer generation: the copy here goes. */
  | { readonly do: 'remove-foreign' };

export interface VmDecision {
  readonly phase: VmPhase;
  readonly reason: string;
  readonly step: VmStep;
  /** Disks to be made, beside the step. */
  readonly make: readonly Disk[];
  /** Look again after so many ms even if nothing rings. Null: no need. */
  readonly againMs: number | null;
}

/** A guest that ignores the first request to stop may be booting: asked again so often, ms. */
export const askAgainMs = 10_000;
/** Restarts remembered: as many as the largest `restartsPerHourMax`. */
export const restartsKeptMax = 100;
/** A guest whose agent has been silent for so long hangs, ms: ten missed questions, more than any stall of a loaded node. */
export const hangMs = 60_000;
/** A failed step of HA is tried again after this long, ms: keepers and standbys come back within seconds. */
const armRetryMs = 5_000;
/** A disk's lock is tried again after this long, ms: the old machine lets go from one moment to the next. */
const lockRetryMs = 1_000;
const hourMs = 3_600_000;
/** Retry after a failed step: doubles from 2 s to 1 min, so that late storage is found and logs stay readable. */
export const retryMs = (count: number): number => Math.min(60_000, 2_000 * 2 ** Math.min(count - 1, 5));

/**
 * What to do next with one VM. One step at a time; the loop comes again after it.
 *
 * The ledger's `own` key rules: a start is always its own compare-and-swap to the next generation, a stop is
 * written after the machine is down.
 *
 * @param nowMs - monotonic ms
 * @see DESIGN 2 (P1), safety 10 (destroy only on proof)
 */
export function decideVm(v: VmView, nowMs: number): VmDecision {
  const none: VmStep = { do: 'none' };
  const answer = (
    phase: VmPhase,
    step: VmStep,
    o: { reason?: string; make?: readonly Disk[]; againMs?: number } = {},
  ): VmDecision => ({
    phase,
    step,
    reason: o.reason ?? v.memory.note,
    make: o.make ?? [],
    againMs: o.againMs ?? null,
  });
  const { spec, own, domain } = v;

  if (v.recovering === true) {
    // Its records may be older than what runs here: not even a deletion is done on their word.
    const paused = domain?.state === 'paused';
    const phase =
      domain?.active !== true ? (domain === null ? 'unknown' : 'stopped') : paused ? 'paused' : 'running';
    return answer(phase, none, { reason: recoveryText, againMs: 1_000 });
  }
  if (spec === null || own === null) {
    const text = 'a machine is here whose records are missing or unreadable; it is left alone';
    return answer('unknown', none, { reason: domain === null ? '' : text });
  }
  if (own.owner !== v.me) {
    if (domain === null) return answer('unknown', none, { reason: `${own.owner} owns it` });
    const proven = domain.mark !== null && own.gen > domain.mark.gen;
    if (proven && domain.active && v.ha.frozen)
      return answer('unknown', none, {
        reason: `${own.owner} owns it: the keeper ends the frozen machine here`,
      });
    return proven
      ? answer(
          'unknown',
          { do: 'remove-foreign' },
          { reason: `${own.owner} owns it since generation ${own.gen}` },
        )
      : answer('unknown', none, {
          reason: `${own.owner} owns it, but the machine here is not older: left alone`,
        });
  }

  const wait =
    v.memory.failure === null ? 0 : v.memory.failure.atMs + retryMs(v.memory.failure.count) - nowMs;
  // An unfinished op is newer than the failure (a failure ends the ops of its time), so it does not wait.
  const mayRetry = wait <= 0 || v.ops.length > 0;
  /** Does a step that may fail again and again, or waits its turn. */
  const attempt = (phase: VmPhase, step: VmStep, reason?: string): VmDecision => {
    const failure = v.memory.failure;
    if (!v.live)
      return answer(phase, none, {
        reason: 'waits for the ledger: this node has no live lease',
        againMs: 1_000,
      });
    const lockedMs = failure?.error.code === 'disk-locked' ? nowMs - failure.sinceMs : Infinity;
    if (failure !== null && step.do === 'start' && lockedMs < v.ha.lockPatienceMs) {
      const leftS = Math.ceil((v.ha.lockPatienceMs - lockedMs) / 1000);
      const text = `its disk is still locked by another machine; tried each second, ${leftS} s more`;
      const againMs = failure.atMs + lockRetryMs - nowMs;
      return againMs > 0
        ? answer('starting', none, { reason: text, againMs })
        : answer('starting', step, { reason: text });
    }
    if (mayRetry) return answer(phase, step, reason === undefined ? {} : { reason });
    return answer('failed', none, { reason: failure?.error.message ?? '', againMs: wait });
  };

  if (v.ops.some((o) => o.kind === 'vm.delete')) {
    if (domain?.active === true) return answer('deleting', { do: 'destroy', why: 'it is being deleted' });
    const d = attempt('deleting', { do: 'delete' });
    return { ...d, phase: 'deleting' };
  }
  if (own.state === 'migrating') return answer('running', none, { reason: 'migrating' });

  const inSpec = new Set(spec.disks.map((d) => d.disk));
  const byId = new Map(v.disks.map((d) => [d.id, d]));
  const make = v.live ? v.disks.filter((d) => d.state === 'wanted') : [];
  const broken = v.disks.find((d) => d.state === 'failed' && inSpec.has(d.id));
  const missing = spec.disks.find((d) => !byId.has(d.disk));
  const unready = spec.disks.filter((d) => byId.get(d.disk)?.state !== 'ready');
  const gone = v.disks.find(
    (d) => d.state === 'deleting' && !(domain?.diskIds.includes(d.id) === true && domain.active),
  );
  const toGrow = v.disks.find((d) => d.state === 'ready' && d.madeBytes < d.sizeBytes);

  const finish = (d: VmDecision): VmDecision => ({ ...d, make });
  /** HA's own step, where nothing is being ended: a standby must not count on what is not so. */
  const withArming = (d: VmDecision): VmDecision => {
    const { step } = v.ha.arming;
    if (step === null || !v.live || ['destroy', 'ask-stop'].includes(d.step.do)) return d;
    const waitMs = v.memory.armFailedMs === null ? 0 : v.memory.armFailedMs + armRetryMs - nowMs;
    return waitMs > 0 ? { ...d, againMs: Math.min(d.againMs ?? waitMs, waitMs) } : { ...d, step };
  };
  const housekeeping = (phase: VmPhase, active: boolean): VmDecision => {
    if (gone !== undefined) return attempt(phase, { do: 'remove-disk', disk: gone });
    if (toGrow !== undefined && (!active || domain?.diskIds.includes(toGrow.id) === true))
      return attempt(phase, { do: 'grow-disk', disk: toGrow, live: active });
    return answer(phase, none);
  };

  if (domain?.active === true) {
    if (own.state === 'stopped' || domain.mark === null || domain.mark.gen !== own.gen) {
      return finish(attempt('running', { do: 'adopt' }));
    }
    return finish(withArming(decideActive(v, spec, domain, nowMs, { answer, attempt, housekeeping })));
  }

  // From here on the machine is off.
  if (spec.power === 'stopped') {
    if (own.state === 'running') {
      const note =
        domain?.reason === 'shutdown' ? 'shut down' : domain?.reason === 'destroyed' ? 'forced off' : '';
      return finish(attempt('stopping', { do: 'settle', note, powerOff: false }));
    }
    if (broken !== undefined) return finish(answer('failed', none, { reason: broken.error?.message ?? '' }));
    return finish(withArming(housekeeping(unready.length > 0 ? 'creating' : 'stopped', false)));
  }

  if (own.state === 'running' && domain !== null && domain.mark?.gen === own.gen) {
    if (domain.reason === 'shutdown' && spec.powerGeneration <= domain.mark.generation) {
      return finish(attempt('stopped', { do: 'settle', note: 'the guest shut itself down', powerOff: true }));
    }
    if (['crashed', 'daemon', 'destroyed'].includes(domain.reason)) {
      const recent = restarts(v, nowMs);
      const what =
        domain.reason === 'destroyed'
          ? 'was forced off outside Flotilla'
          : 'died (QEMU ended without a shutdown)';
      if (spec.onCrash === 'stop') {
        return finish(attempt('crashed', { do: 'settle', note: `the machine ${what}`, powerOff: true }));
      }
      if (recent >= spec.ha.restartsPerHourMax) {
        const note = `the machine ${what}, ${recent} times within an hour: it stays off`;
        return finish(attempt('crashed', { do: 'settle', note, powerOff: true }));
      }
      return finish(startStep(true));
    }
  }
  return finish(startStep(false));

  function startStep(crashed: boolean): VmDecision {
    if (missing !== undefined)
      return answer('failed', none, { reason: `disk ${missing.disk} has no record in the ledger` });
    if (broken !== undefined) return answer('failed', none, { reason: broken.error?.message ?? '' });
    if (unready.length > 0) return answer('creating', none, { reason: 'its disks are being made' });
    if (toGrow !== undefined) return attempt('starting', { do: 'grow-disk', disk: toGrow, live: false });
    const { atStart: arm, inSlice } = v.ha.arming;
    return attempt('starting', { do: 'start', paused: spec?.power === 'paused', crashed, arm, inSlice });
  }
}

/** Starts and resets of the last hour that nobody asked for. */
const restarts = (v: VmView, nowMs: number): number =>
  v.memory.crashesMs.filter((t) => nowMs - t < hourMs).length + v.ha.failovers;

interface Tools {
  answer(phase: VmPhase, step: VmStep, o?: { reason?: string; againMs?: number }): VmDecision;
  attempt(phase: VmPhase, step: VmStep, reason?: string): VmDecision;
  housekeeping(phase: VmPhase, active: boolean): VmDecision;
}

/** The machine runs (or is paused) under the right generation. */
function decideActive(v: VmView, spec: VmSpec, domain: DomainView, nowMs: number, t: Tools): VmDecision {
  const how = domain.agentConnected ? 'agent' : 'acpi';
  const paused = domain.state === 'paused';

  if (spec.power === 'stopped') {
    if (v.ops.some((o) => o.kind === 'vm.force-stop'))
      return t.answer('stopping', { do: 'destroy', why: 'a force-stop was asked for' });
    const stop = v.memory.stop;
    const timeoutMs = spec.stopTimeoutS * 1000;
    if (stop !== null && nowMs - stop.sinceMs >= timeoutMs)
      return t.answer('stopping', {
        do: 'destroy',
        why: `the guest did not shut down within ${spec.stopTimeoutS} s`,
      });
    if (stop === null && timeoutMs === 0)
      return t.answer('stopping', { do: 'destroy', why: 'its stop time-out is 0' });
    // A paused guest cannot hear the request.
    if (paused && domain.reason === 'user') return t.answer('stopping', { do: 'resume' });
    if (stop === null) return t.answer('stopping', { do: 'ask-stop', how });
    // The guest agent may be there and deaf: ask in the other way the next time.
    if (nowMs - stop.lastAskMs >= askAgainMs)
      return t.answer('stopping', { do: 'ask-stop', how: stop.asked % 2 === 1 ? 'acpi' : how });
    const next = Math.min(stop.sinceMs + timeoutMs, stop.lastAskMs + askAgainMs) - nowMs;
    return t.answer(
      'stopping',
      { do: 'none' },
      { reason: 'the guest was asked to shut down', againMs: Math.max(50, next) },
    );
  }

  const reboot = v.ops.find((o) => o.kind === 'vm.reboot' && o.state === 'queued');
  const reset = v.ops.find((o) => o.kind === 'vm.reset' && o.state === 'queued');
  if (reset !== undefined) return t.attempt('running', { do: 'reset', op: reset });
  if (reboot !== undefined && !paused) return t.attempt('running', { do: 'reboot', op: reboot, how });

  if (paused) {
    if (spec.power === 'paused') return t.housekeeping('paused', true);
    if (domain.reason === 'user' || domain.reason === 'starting-up')
      return t.attempt('paused', { do: 'resume' });
    if (v.ops.some((o) => o.kind === 'vm.resume')) return t.attempt('paused', { do: 'resume' });
    const why =
      domain.reason === 'io-error'
        ? 'paused by a disk error (is its pool full or away?); resume it when that is mended'
        : `paused by the hypervisor: ${domain.reason}`;
    return t.answer('paused', { do: 'none' }, { reason: why });
  }
  if (spec.power === 'paused' && domain.state === 'running') return t.attempt('running', { do: 'pause' });

  const { silentMs } = v.ha;
  if (spec.ha.onHang === 'reset' && silentMs !== null && silentMs >= hangMs && domain.state === 'running') {
    const recent = restarts(v, nowMs);
    const text = `its guest agent has not answered for ${Math.round(silentMs / 1000)} s`;
    if (recent < spec.ha.restartsPerHourMax) return t.attempt('running', { do: 'reset-hung' }, text);
    return t.answer(
      'running',
      { do: 'none' },
      { reason: `${text}; restarted ${recent} times within an hour: left as it is` },
    );
  }

  const hot = v.diff?.hot[0];
  if (hot !== undefined) {
    const d = t.attempt('running', { do: 'apply', step: hot });
    // A change that cannot be made does not make a running VM a failed one.
    return { ...d, phase: 'running' };
  }
  return { ...t.housekeeping('running', true), phase: 'running' };
}

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
    case 'vm.update': {
      if (broken?.error) return { state: 'failed', error: broken.error };
      const settled = d.step.do === 'none' && d.make.length === 0;
      const pending = v.diff?.pendingRestart.length ?? 0;
      if (!settled || v.disks.some((x) => x.state === 'deleting' || x.state === 'wanted')) return null;
      return { state: 'done', step: pending > 0 ? 'the rest comes with the next restart' : 'applied' };
    }
    // These finish where they are done.
    case 'vm.failover':
    case 'vm.delete':
    case 'image.import':
    case 'image.delete':
    case 'disk.delete':
      return null;
  }
}
