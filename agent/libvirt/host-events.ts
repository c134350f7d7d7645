import type { HostEvent } from './hypervisor.js';
import { jobResult, numbers } from './job-stats.js';
import type { WireEvent } from './protocol.js';
import {
  blockJobStatus,
  blockJobType,
  ioErrorAction,
  jobOperation,
  lifecycleChange,
  watchdogAction,
} from './words.js';

/** An event in the words of this module. */
export function hostEvent({ kind, body }: WireEvent): HostEvent {
  const { uuid, name } = body.domain;
  const of = { uuid, name };
  switch (kind) {
    case 'lifecycle':
      return { type: 'lifecycle', ...of, ...lifecycleChange(body.event, body.detail) };
    case 'reboot':
      return { type: 'reboot', ...of };
    case 'watchdog':
      return { type: 'watchdog', ...of, action: watchdogAction(body.action) };
    case 'ioError': {
      const { path, alias, reason } = body;
      return { type: 'io-error', ...of, path, alias, action: ioErrorAction(body.action), reason };
    }
    case 'trayChange': {
      const tray = (['open', 'closed'] as const)[body.reason] ?? 'unknown';
      return { type: 'tray-change', ...of, alias: body.alias, tray };
    }
    case 'balloonChange':
      return { type: 'balloon-change', ...of, actualKiB: Number(body.actualKiB) };
    case 'deviceAdded':
      return { type: 'device-added', ...of, alias: body.alias };
    case 'deviceRemoved':
      return { type: 'device-removed', ...of, alias: body.alias };
    case 'deviceRemovalFailed':
      return { type: 'device-removal-failed', ...of, alias: body.alias };
    case 'blockJob': {
      const { disk, type, status } = body;
      return { type: 'block-job', ...of, disk, job: blockJobType(type), status: blockJobStatus(status) };
    }
    case 'agentLifecycle': {
      const state = body.state === 1 ? 'connected' : 'disconnected';
      const reason = (['unknown', 'domain-started', 'channel'] as const)[body.reason] ?? 'unknown';
      return { type: 'agent-lifecycle', ...of, state, reason };
    }
    case 'migrationIteration':
      return { type: 'migration-iteration', ...of, iteration: body.iteration };
    case 'jobCompleted': {
      const operation = jobOperation(numbers(body.params).get('operation') ?? 0);
      return { type: 'job-completed', ...of, operation, result: jobResult(body.params) };
    }
    case 'metadataChange': {
      const kindOfText = (['description', 'title', 'element'] as const)[body.type] ?? 'unknown';
      return { type: 'metadata-change', ...of, kind: kindOfText, uri: body.uri ?? undefined };
    }
  }
}
