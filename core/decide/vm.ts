import { isReplicated, type Disk } from '../domain/disk.js';
import type { VmPhase, VmSpec } from '../domain/vm.js';
import { copyOf } from './migrate.js';
import type { DomainView, VmDecision, VmStep, VmView } from './vm-view.js';

/** A guest that ignores the first request to stop may be booting: asked again so often, ms. */
export const askAgainMs = 10_000;
/** A guest whose agent has been silent for so long hangs, ms: ten missed questions, more than any stall of a loaded node. */
export const hangMs = 60_000;
/** A failed step of HA is tried again after this long, ms: keepers and standbys come back within seconds. */
const armRetryMs = 5_000;
/** A disk's lock is tried again after this long, ms: the old machine lets go from one moment to the next. */
const lockRetryMs = 1_000;
/** So often a start fails for what is this node's own before the VM is its standby's: within 6 s. */
const startsBeforeYield = 3;
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

  const untrusted = v.recovering ?? null;
  if (untrusted !== null) {
    // Its records may be older than what runs here: not even a deletion is done on their word.
    const paused = domain?.state === 'paused';
    const phase =
      domain?.active !== true ? (domain === null ? 'unknown' : 'stopped') : paused ? 'paused' : 'running';
    return answer(phase, none, { reason: untrusted, againMs: 1_000 });
  }
  if (spec === null || own === null) {
    const text = 'a machine is here whose records are missing or unreadable; it is left alone';
    return answer('unknown', none, { reason: domain === null ? '' : text });
  }
  if (own.owner !== v.me) {
    if (domain === null) return answer('unknown', none, { reason: `${own.owner} owns it` });
    if (domain.mark?.incoming === true && copyOf(own, domain.mark, v.me) === 'awaited')
      return answer('unknown', none, { reason: `it migrates here from ${own.owner}` });
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
  const mayRetry = wait <= 0 || v.ops.some((o) => o.kind !== 'vm.move-disk');
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

  // The ledger was recovered, and others may have owned it since this machine: its memory is older than the disk.
  if (own.fresh === true && domain?.active === true)
    return answer(
      'stopping',
      v.live ? { do: 'destroy', why: 'another node owned it since, before the ledger was recovered' } : none,
    );
  // Whatever is wanted of it comes when the migration has ended, which a stop or a deletion hastens.
  if (own.state === 'migrating')
    return answer(domain?.state === 'paused' && spec.power === 'paused' ? 'paused' : 'running', none, {
      reason: `migrates to ${own.migration?.to ?? 'another node'}`,
    });
  const hold = v.hold ?? null;
  const asked = (kind: string): boolean => v.ops.some((o) => o.kind === kind);
  if (domain?.active === true && domain.mark?.incoming === true) {
    if (copyOf(own, domain.mark, v.me) !== 'mine')
      return answer('starting', {
        do: 'destroy',
        why: 'it is the copy of a migration that did not come to its end',
      });
    const paused = spec.power === 'paused';
    // Is it to end anyway, it waits for no pool that takes no takeover record. One that never went on is not asked to stop, as it
    // would have to run for that, which the keeper has not allowed yet.
    const wentOn = domain.state === 'running' || domain.reason === 'io-error';
    const ends =
      hold !== null || asked('vm.delete') || (spec.power === 'stopped' && (wentOn || asked('vm.force-stop')));
    if (!ends)
      return attempt(paused ? 'paused' : 'running', { do: 'take-in', paused }, 'it has just migrated here');
  }

  if (asked('vm.delete')) {
    if (domain?.active === true) return answer('deleting', { do: 'destroy', why: 'it is being deleted' });
    const d = attempt('deleting', { do: 'delete' });
    return { ...d, phase: 'deleting' };
  }
  if (hold !== null && domain?.active === true)
    return answer('stopping', { do: 'destroy', why: hold }, { reason: hold });
  const inSpec = new Set(spec.disks.map((d) => d.disk));
  const byId = new Map(v.disks.map((d) => [d.id, d]));
  const make = v.live ? v.disks.filter((d) => d.state === 'wanted') : [];
  const broken = v.disks.find((d) => d.state === 'failed' && inSpec.has(d.id));
  const missing = spec.disks.find((d) => !byId.has(d.disk));
  const unready = spec.disks.filter((d) => byId.get(d.disk)?.state !== 'ready');
  const gone = v.disks.find(
    (d) => d.state === 'deleting' && !(domain?.diskIds.includes(d.id) === true && domain.active),
  );
  const small = v.disks.filter((d) => d.state === 'ready' && d.madeBytes < d.sizeBytes);
  const growWaits = (d: Disk): string | null => (isReplicated(d) ? (v.copies?.growWaits?.(d) ?? null) : null);
  const toGrow = small.find((d) => growWaits(d) === null);
  const growsLater = small.reduce<string | null>((why, d) => why ?? growWaits(d), null);

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
    return answer(phase, none, growsLater === null ? {} : { reason: growsLater, againMs: 1_000 });
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
    const rest = housekeeping(unready.length > 0 ? 'creating' : 'stopped', false);
    const making = unready.length > 0 ? (v.copies?.making ?? null) : null;
    const relocate = v.ops.find((o) => o.kind === 'vm.relocate' && !o.cancelAsked);
    const moves = v.ops.some((o) => o.kind === 'vm.move-disk');
    const may = rest.step.do === 'none' && unready.length === 0 && own.sync !== 'stale' && !moves;
    if (relocate !== undefined && may)
      return finish(withArming(attempt('stopped', { do: 'relocate', op: relocate })));
    return finish(
      withArming(making === null || rest.step.do !== 'none' ? rest : { ...rest, reason: making }),
    );
  }

  if (hold !== null) {
    if (own.state === 'running')
      return finish(attempt('stopping', { do: 'settle', note: hold, powerOff: false }, hold));
    return finish(withArming(answer('stopped', none, { reason: hold })));
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
    // One that ran comes back as it was: what was being added to it then is no reason to stay off, and is plugged in later. Not
    // where something is being taken away, for which that may be the substitute; nor while its pair is busy with it.
    const asItWas =
      own?.state === 'running' && own.fresh !== true && !v.disks.some((d) => d.state === 'deleting');
    const beside = asItWas && !v.disks.some((d) => d.state === 'wanted' && isReplicated(d));
    if (broken !== undefined && !asItWas)
      return answer('failed', none, { reason: broken.error?.message ?? '' });
    if (unready.length > 0 && !beside)
      return answer('creating', none, { reason: v.copies?.making ?? 'its disks are being made' });
    const copied = v.moving?.copied ?? null;
    if (copied !== null) return answer('starting', none, { reason: copied, againMs: 500 });
    const waits = v.lockstep ?? v.copies?.waits ?? null;
    if (waits !== null) return answer('starting', none, { reason: waits, againMs: 1_000 });
    if (toGrow !== undefined) return attempt('starting', { do: 'grow-disk', disk: toGrow, live: false });
    const given = yieldStep(v);
    if (given !== null) return answer('starting', given);
    const { atStart: arm, inSlice } = v.ha.arming;
    const again =
      v.memory.failure?.error.code === 'disk-locked' &&
      own?.state === 'running' &&
      own.gen === domain?.mark?.gen;
    const paused = spec?.power === 'paused';
    return attempt('starting', { do: 'start', paused, crashed, arm, inSlice, again });
  }
}

/**
 * Gives a VM to its standby that this node has tried to start in vain, for a reason of its own. Counted like a failover:
 * one that starts nowhere does not wander for ever. Null: it stays.
 */
function yieldStep(v: VmView): Extract<VmStep, { do: 'yield' }> | null {
  const { failure } = v.memory;
  const to = v.ha.arming.standby;
  if (failure === null || failure.ofNode < startsBeforeYield || to === null || !v.live) return null;
  if (v.ha.held || v.own?.sync === 'stale') return null;
  if (v.ha.failovers >= (v.spec?.ha.restartsPerHourMax ?? 0)) return null;
  return { do: 'yield', to, sinceMs: failure.sinceMs, why: failure.error.message };
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

  const stands = v.moving?.stands ?? null;
  if (spec.power === 'stopped') {
    if (v.ops.some((o) => o.kind === 'vm.force-stop'))
      return t.answer('stopping', { do: 'destroy', why: 'a force-stop was asked for' });
    if (paused && stands !== null)
      return t.answer('stopping', { do: 'none' }, { reason: stands, againMs: 500 });
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
    if (paused && ['user', 'migration'].includes(domain.reason))
      return t.answer('stopping', { do: 'resume' });
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

  if (paused && stands !== null) return t.answer('paused', { do: 'none' }, { reason: stands, againMs: 500 });
  if (paused) {
    if (spec.power === 'paused') return t.housekeeping('paused', true);
    // `migration`: it stood still at the end of one that came to nothing, and is this node's alone again.
    if (['user', 'starting-up', 'migration'].includes(domain.reason))
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
