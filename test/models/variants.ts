/** What each spin model must show, and the mistakes it must catch. docs/models.md says it in words. */

export interface Variant {
  /** For `spin -D`. */
  flags: readonly string[];
  /** The property that must break, by the name in the model's head. */
  breaks: string;
}

export interface Model {
  /** `test/models/<name>.pml` */
  name: string;
  /** Property → what pan prints of its assertion and of no other in this model. */
  properties: Readonly<Record<string, string>>;
  /** Flags under which all properties must hold. */
  holds: readonly (readonly string[])[];
  broken: readonly Variant[];
}

/** `'W=2 ANSWER_DATED'` breaks the given property. */
const broken = (breaks: string, ...flags: string[]): Variant[] =>
  flags.map((f) => ({ flags: f.split(' '), breaks }));

export const models: readonly Model[] = [
  {
    name: 'ownership',
    properties: { twice: 'runs[0]&&runs[1]', stale: '(disk!=' },
    holds: [[], ['LATE=1'], ['SHARED']],
    broken: [
      ...broken(
        'twice',
        'W=2 ANSWER_DATED',
        'OLD_LEASE',
        'AUTOSTART',
        'DEPOSED',
        'WAIT=0 F=0',
        'WAIT=2',
        'W=2 WAIT=3',
        'LATE=1 WAIT=3',
        'NO_WAIT_MS',
        'REAL_LATE=1',
        'WAIT_DATED_EARLY',
        'NO_SEEN',
        'SHARED NO_MINE',
        'UNARMED',
        'ARMED_EARLY',
        'DISARM_FIRST',
        'ARMED_KEPT',
        'HANDOVER_BLIND',
        'OLD_PROOF',
        'MOVE_RUNNING',
        'STOPPED_EARLY',
        'YIELD_EARLY',
      ),
      ...broken('stale', 'NO_STALE', 'STALE_TAKEN', 'YIELD_STALE'),
    ],
  },
  {
    name: 'freeze',
    properties: { twice: 'b_runs', older: '&&(machine==', wrongly: 'violated (machine==' },
    holds: [[], ['W=3'], ['DEATH_PETS', 'WAIT=6']],
    broken: [
      ...broken(
        'twice',
        'WAIT=3',
        'PET_WHILE_THAW',
        'PET_UNCONFIRMED',
        'BORN_AWAKE',
        'RESTART_PETS',
        'DEATH_PETS',
        'DEATH_PETS WAIT=5',
        'DEATH_PETS RESTART_PETS WAIT=6',
        'THAW_UNREAD',
        'THAW_OLD_READ',
        'THAW_STARTING',
      ),
      ...broken('older', 'THAW_BY_NAME'),
      ...broken('wrongly', 'KILL_UNPROVEN'),
    ],
  },
  {
    name: 'migration',
    properties: { twice: '(target==', older: '!(older)' },
    holds: [[]],
    broken: [
      ...broken(
        'twice',
        'ARRIVES_RUNNING',
        'SWAP_EARLY',
        'TARGET_SWAPS',
        'RESUME_UNASKED',
        'NO_FENCE',
        'THAW_UNREAD',
      ),
      ...broken('older', 'RESUME_BY_NAME', 'FAILOVER_RESUMES', 'GONE_IS_MIGRATED'),
    ],
  },
  {
    name: 'repair',
    properties: { stale: '(standby==', two: '(1==0)', only: '&&diskless' },
    holds: [[]],
    broken: [
      ...broken(
        'stale',
        'NO_STALE',
        'ACK_FIRST',
        'NO_EPOCH',
        'SEEN_BEFORE_READ',
        'NO_REVISION',
        'STALE_TAKEN',
        'REPAIR_KEEPS_SYNC',
        'SWAP_UNREADY',
        'MIRROR_LAZY',
        'PIVOT_FIRST',
      ),
      ...broken('two', 'DROP_FIRST', 'SWAP_UNSYNCED'),
      ...broken('only', 'DISKLESS_STALE'),
    ],
  },
  {
    name: 'promise',
    properties: { twice: '(owner!=', other: 'other&&otherTaken', both: 'bRuns&&cRuns' },
    holds: [
      [],
      ['W=2'],
      ['SHARED'],
      ['SHARED', 'W=2'],
      ['SHARED', 'NO_PROMISE', 'ANY=WAIT'],
      ['SHARED', 'NO_PROMISE', 'LIVING'],
    ],
    broken: [
      ...broken(
        'twice',
        'W=2 PROMISE_DATED',
        'NOT_WAITED',
        'QUIET=2',
        'BOOT_FORGETS',
        'PROMISE_IN_SWAP',
        'INTENT_FORGOTTEN',
        'PROMISE_UNREAD',
        'OLD_STANDBY',
        'CHANGE_LATE',
        'SHARED ANY=3',
        'SHARED ANY=WAIT',
        'SHARED B_ALONE',
        'SHARED NO_PROMISE ANY=2',
        'SHARED LIVING',
        'SHARED NO_PROMISE LIVING ANY=2',
        'SHARED NO_PROMISE LIVING LIVING_NO_SEEN',
      ),
      ...broken('both', 'SHARED NO_PROMISE LIVING LIVING_BLIND'),
      ...broken('other', 'WAIT=2', 'PET_FOR_ALL'),
    ],
  },
  {
    name: 'lockstep',
    properties: { twice: '&&owner_b', older: '!(behind)' },
    holds: [[]],
    broken: [
      ...broken(
        'twice',
        'A_FIRST',
        'B_FIRST',
        'NOT_SHUT',
        'A_BLIND',
        'B_BLIND',
        'UNPROTECTED',
        'PROTECT_EARLY',
        'FAILS_LATE',
        'QEMU_GOES_ON',
      ),
      ...broken('older', 'OWNER_BLIND'),
    ],
  },
];
