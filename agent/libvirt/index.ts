export { Counters } from './counters.js';
export { LibvirtError } from './error.js';
export type * from './hypervisor.js';
export { DEADLINE_MS, LibvirtHypervisor, type LibvirtHypervisorOptions } from './libvirt-hypervisor.js';
export { IN_FLIGHT_MAX, QUEUE_MAX, RpcConnection, type ConnectionOptions } from './client.js';
export { EVENTS, PROCEDURES } from './protocol.js';
