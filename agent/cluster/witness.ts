import { once } from 'node:events';
import { FlotillaError } from '../../core/domain/error.js';
import type { Machine } from '../env.js';
import type { HostEvent, Hypervisor } from '../libvirt/hypervisor.js';

/** The hypervisor of a witness: there is none, so it has no domains; anything else asked of it is a defect. */
export function noHypervisor(): Hypervisor {
  const none = {
    connected: false,
    list: async () => [],
    stats: async () => [],
    events: (signal?: AbortSignal) => silence(signal),
  } satisfies Partial<Hypervisor>;
  return new Proxy(none as unknown as Hypervisor, {
    get(target, name) {
      if (name in target) return Reflect.get(target, name) as unknown;
      return () =>
        Promise.reject(
          new FlotillaError('unsupported', 'This node is a witness: it runs no VMs', {
            hint: 'Use another node.',
          }),
        );
    },
  });
}

/** The machine of a witness: nobody asks it to try whether it could run guests. */
export function noGuests(machine: Machine): Machine {
  return {
    isDead: (vm) => machine.isDead(vm),
    facts: () => machine.facts(),
    cpuTune: () => null,
    use: () => machine.use(),
    accel: () =>
      Promise.reject(
        new FlotillaError('unsupported', 'A witness runs no VMs', { hint: 'Use another node.' }),
      ),
  };
}

// eslint-disable-next-line require-yield -- nothing ever happens here
async function* silence(signal?: AbortSignal): AsyncGenerator<HostEvent> {
  if (signal === undefined || signal.aborted) return;
  await once(signal, 'abort');
}
