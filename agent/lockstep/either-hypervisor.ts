import { EventHub } from '../libvirt/event-hub.js';
import { LibvirtError, type HostEvent, type Hypervisor, type Job } from '../libvirt/hypervisor.js';
import { elementText } from '../libvirt/xml-facts.js';
import { isLockstep } from './machine.js';
import type { LockstepHypervisor } from './lockstep-hypervisor.js';

/** Calls that give back work under way, and not a promise. */
const jobs: readonly PropertyKey[] = ['migrate', 'blockCopy', 'blockCommit'] satisfies (keyof Hypervisor)[];

/**
 * libvirt's VMs and those in lockstep as one hypervisor: a call about a VM goes to where it is, and what a VM in lockstep
 * cannot do is refused in words. Whether it can be used at all is libvirt's matter.
 */
export function eitherHypervisor(libvirt: Hypervisor, lockstep: LockstepHypervisor): Hypervisor {
  const both: Pick<Hypervisor, 'open' | 'close' | 'list' | 'stats' | 'define' | 'events'> = {
    open() {
      lockstep.open();
      libvirt.open();
    },
    async close() {
      lockstep.close();
      await libvirt.close();
    },
    async list(o) {
      const [mine, others] = await Promise.all([lockstep.list(), libvirt.list(o)]);
      return [...mine, ...others.filter((d) => !lockstep.has(d.uuid))];
    },
    async stats(o) {
      const domains = o?.domains?.filter((d) => !lockstep.has(d));
      const [mine, others] = await Promise.all([
        lockstep.stats(o),
        // None named would mean all.
        domains?.length === 0 ? [] : libvirt.stats({ ...o, ...(domains === undefined ? {} : { domains }) }),
      ]);
      return [...mine, ...others.filter((d) => !lockstep.has(d.uuid))];
    },
    async define(xml, o) {
      const uuid = elementText(xml, 'uuid');
      const here = isLockstep(xml);
      // A machine is of one kind at a time: the other's definition goes, or refuses since it runs.
      if (!here && lockstep.has(uuid)) await lockstep.undefine(uuid);
      if (here && (await libvirt.list()).some((d) => d.uuid === uuid))
        await libvirt.undefine(uuid, { nvram: 'keep' });
      return here ? lockstep.define(xml) : libvirt.define(xml, o);
    },
    events(signal) {
      const hub = new EventHub();
      const merged = hub.read(signal, []);
      void Promise.all([pump(libvirt.events(signal), hub), pump(lockstep.events(signal), hub)]).then(() =>
        hub.end(),
      );
      return merged;
    },
  };
  return new Proxy(libvirt, {
    get(target, name) {
      if (name in both) return Reflect.get(both, name) as unknown;
      const value = Reflect.get(target, name) as unknown;
      if (typeof value !== 'function') return value;
      const own = name in lockstep ? (Reflect.get(lockstep, name) as unknown) : null;
      return (...args: unknown[]): unknown => {
        const [vm] = args;
        if (typeof vm !== 'string' || !lockstep.has(vm)) return Reflect.apply(value, target, args) as unknown;
        if (typeof own === 'function') return Reflect.apply(own, lockstep, args) as unknown;
        const error = new LibvirtError(`VM ${vm} is in lockstep, which knows no ${String(name)}`, {
          code: 'unsupported',
          outcome: 'refused',
          domainId: vm,
        });
        return jobs.includes(name) ? noJob(error) : Promise.reject(error);
      };
    },
  });
}

async function pump(from: AsyncIterable<HostEvent>, to: EventHub): Promise<void> {
  for await (const e of from) to.emit(e);
}

function noJob(error: LibvirtError): Job<never> {
  const done = Promise.reject<never>(error);
  done.catch(() => undefined);
  return {
    done,
    // eslint-disable-next-line require-yield -- nothing ever happens here
    async *progress() {
      return;
    },
    cancel: () => Promise.resolve(),
  };
}
