import type { Vapp } from '../../core/domain/vapp.js';
import type { World } from './cluster/world.js';

/** A vApp that has members and nothing else. */
export const vappOf = (id: string, name: string, members: Vapp['members']): Vapp => ({
  id,
  name,
  generation: 1,
  note: '',
  tags: [],
  owner: '',
  members,
  groups: [],
  networks: [],
  properties: [],
  class: null,
  rules: [],
  failover: 'members',
  eulas: [],
  cpuAllocation: null,
  memoryAllocation: null,
  ovf: null,
});

/** The records of the ledger below that key. */
export const records = <T>(w: World, prefix: string): T[] =>
  w.voters.store.peekAll(prefix).map((e) => JSON.parse(e.value) as T);
