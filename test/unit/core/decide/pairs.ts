import type { PairSeen, VolumeSeen } from '../../../../core/domain/replica.js';
import { vmOwnSchema, type VmOwn } from '../../../../core/domain/vm.js';

export const vm = '11111111-1111-4111-8111-111111111111';

/** A volume whose copies are the same. */
export const volume = (o: Partial<VolumeSeen> = {}): VolumeSeen => ({
  volume: 0,
  minor: 1000,
  here: 'UpToDate',
  there: 'UpToDate',
  replication: 'Established',
  sizeBytes: 1 << 30,
  behindBytes: 0,
  ...o,
});

/** A connected pair of one such volume that nobody writes to. */
export const pair = (o: Partial<PairSeen> = {}): PairSeen => ({
  vm,
  role: 'Secondary',
  peerRole: 'Secondary',
  connection: 'Connected',
  suspended: false,
  volumes: [volume()],
  ...o,
});

/** Of a VM that runs on n1, armed, its other copy on n2; in that epoch. */
export const ownOf = (epoch: number, o: Partial<VmOwn> = {}): VmOwn => ({
  ...vmOwnSchema.parse({
    owner: 'n1',
    standby: 'n2',
    copies: [
      { node: 'n1', state: 'ok', epoch },
      { node: 'n2', state: 'ok', epoch },
    ],
    gen: 7,
    state: 'running',
    sync: 'ok',
    syncEpoch: epoch,
    fence: { armed: true, waitMs: 7000 },
    op: null,
  }),
  ...o,
});
