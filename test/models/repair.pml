/* The standby's copy of a VM's disk: losing it, having it again, and moving it to another node as planned.

   PROPERTIES
     stale    no failover to a copy that lacks a write the guest was told is on disk        (promise P3)
     two      a planned change of the standby drops the old copy only when the new one has everything
     only     the ledger never calls the only whole copy stale

   A owns. B is the standby, C a third node. The disk is a DRBD resource on A and B; a planned change makes a second
   one on A and C, empty on both sides and so in sync without a resync, into which A's QEMU mirrors. When C's copy is
   done and the old one dropped, C is called B and the next node C, so changes follow one another for ever. In the
   same way the node that took over is called A.

   A resource, seen from A:
     SAME     connected, alike             HELD   link lost; writes wait for the fence-peer handler
     SYNCING  connected, catching up       ALONE  link lost; A goes on alone, the peer's copy misses writes

   The handler commits "stale" and bumps the copy's epoch BEFORE it lets writes go on, even if the copy is stale already.
   "In sync" is written by the owner alone, in three steps with other things in between: read own at revision r; then
   see the copy connected and up to date; then swap own at r.

   Which node may fail over when is ownership.pml; here A is simply off.

   BROKEN VARIANTS
     NO_STALE          the handler lets writes go on without writing anything
     ACK_FIRST         the handler writes "stale" after it let writes go on
     NO_EPOCH          the handler writes nothing when the copy is stale already
     SEEN_BEFORE_READ  the owner sees "up to date" first and reads own after
     NO_REVISION       "in sync" is written without comparing own's revision
     STALE_TAKEN       failover does not ask whether the copy is in sync
     REPAIR_KEEPS_SYNC the new standby inherits the old one's "in sync"
     SWAP_UNREADY      the standby is swapped when the new resource is in sync, though the mirror is not done
     SWAP_UNSYNCED     the standby is swapped when the mirror is done, though C is not in sync
     MIRROR_LAZY       the mirror is not write-blocking: the new resource gets a write after the guest had its answer
     PIVOT_FIRST       QEMU leaves the old resource before own names the new standby
     DROP_FIRST        the old copy is dropped to make room for the new one (the in-place way, which needs consent)
     DISKLESS_STALE    the handler of an owner whose own disk has failed writes the peer stale                     */

#ifdef NO_STALE
#define WRITE_STALE(x) skip
#else
#ifdef ACK_FIRST
#define WRITE_STALE(x) owed[x] = true
#else
#ifdef NO_EPOCH
#define WRITE_STALE(x) if :: inSync[x] -> inSync[x] = false; written :: else fi
#else
#define WRITE_STALE(x) inSync[x] = false; written
#endif
#endif
#endif
#ifdef SEEN_BEFORE_READ
#define MAY_FIRST(x) (res[x] == SAME)
#define MAY_THEN(x) true
#define READ_NOW sameRevision = true
#else
#define MAY_FIRST(x) true
#define MAY_THEN(x) (res[x] == SAME)
#define READ_NOW skip
#endif
#ifdef NO_REVISION
#define AT_REVISION true
#else
#define AT_REVISION sameRevision
#endif
#ifdef STALE_TAKEN
#define IN_SYNC(x) true
#else
#define IN_SYNC(x) inSync[x]
#endif
#ifdef REPAIR_KEEPS_SYNC
#define NEW_STALE skip
#define MAY_REPAIR true
#else
#define NEW_STALE inSync[B] = false
#define MAY_REPAIR (!inSync[B])
#endif
#ifdef SWAP_UNREADY
#define MIRRORED (phase == FILLING || phase == READY)
#else
#define MIRRORED (phase == READY)
#endif
#ifdef SWAP_UNSYNCED
#define NEW_IN_SYNC true
#else
#define NEW_IN_SYNC inSync[C]
#endif
#ifdef PIVOT_FIRST
#define NAMED true
#else
#define NAMED (standby == C)
#endif
#ifdef MIRROR_LAZY
#define REACHES_NEW lag = true
#else
#define REACHES_NEW skip
#endif
#ifdef DROP_FIRST
#define DROP_OLD inSync[B] = false; lacks[B] = true; res[B] = ALONE; assert(whole(C))     /* two */
#else
#define DROP_OLD skip
#endif
#ifdef DISKLESS_STALE
#define WHOLE_DISK true
#else
#define WHOLE_DISK (!diskless)
#endif

#define B 0
#define C 1
mtype = { SAME, SYNCING, HELD, ALONE };
mtype = { NOTHING, FILLING, READY, PIVOTED };

/* ---- the ledger: own.standby and own.copies ---- */
byte standby = B;
bool inSync[2];

/* ---- A ---- */
bool up = true;
bool diskless = false;       /* A's own disk has failed: B's copy is the only one */
mtype res[2] = SAME;         /* the resources */
mtype phase = NOTHING;       /* of the planned change; PIVOTED: QEMU uses the new resource alone */
bool filled = false;         /* the mirror was done: the new resource is the disk, not a part of it */
bool owed[2];                /* ACK_FIRST: "stale" is still to be written */

/* what its agent remembers while it makes up its mind to write "in sync" of copy `about` */
byte step = 0;
byte about = B;
bool sameRevision = false;   /* own was not written since it was read */

/* ---- what the copies lack ---- */
bool lacks[2];
bool lag = false;            /* MIRROR_LAZY: the guest had its answer, the new resource did not have the write */

#define written sameRevision = false
#define inUse(x) (x == B -> phase != PIVOTED : phase != NOTHING)
#define whole(x) (x == B -> !lacks[B] : !lacks[C] && !lag && filled)

inline lose(x) { if :: res[x] != ALONE -> res[x] = HELD :: else fi }
inline miss(x) { if :: inUse(x) && res[x] == ALONE -> lacks[x] = true :: else fi }
inline drop_new() {
  phase = NOTHING; filled = false; inSync[C] = false; res[C] = SAME; lacks[C] = false; owed[C] = false; lag = false; written
}
inline rename_new() {         /* the new pair is the pair */
  inSync[B] = inSync[C]; res[B] = res[C]; lacks[B] = lacks[C]; owed[B] = owed[C];
  standby = B; drop_new()
}

/* The links, the resyncs, the guest's writes. One process for each resource. */
active [2] proctype resource() {
  byte x = _pid;
  do
  :: d_step { inUse(x) && (res[x] == SAME || res[x] == SYNCING) -> res[x] = HELD }
  :: d_step { up && res[x] == HELD && WHOLE_DISK ->                            /* the fence-peer handler */
       assert(!(x == B && diskless)); WRITE_STALE(x); res[x] = ALONE }         /* only */
  :: d_step { up && res[x] == HELD -> res[x] = (diskless -> SAME : SYNCING) }  /* it is back, nothing was answered */
  :: d_step { up && res[x] == ALONE -> res[x] = SYNCING }
  :: d_step { up && res[x] == SYNCING -> res[x] = SAME; lacks[x] = false }
  :: d_step { owed[x] -> owed[x] = false; inSync[x] = false; written }
  od
}

active proctype guest() {
  do
  :: d_step { up && !(inUse(B) && res[B] == HELD) && !(inUse(C) && res[C] == HELD) ->      /* a write, answered */
       miss(B); miss(C);
       if :: phase == PIVOTED -> lacks[B] = true :: else fi;
       if :: phase == READY -> REACHES_NEW :: else fi }
  :: d_step { lag && res[C] != HELD -> lag = false }
  od
}

active proctype owner() {
  do
  /* "in sync", of either copy; of the new one only once the mirror is done */
  :: d_step { up && step == 0 && inUse(B) && MAY_FIRST(B) -> about = B; step = 1; sameRevision = true }
  :: d_step { up && step == 0 && MIRRORED && MAY_FIRST(C) -> about = C; step = 1; sameRevision = true }
  :: d_step { step == 1 && MAY_THEN(about) -> step = 2; READ_NOW }
  :: d_step { step == 2 && AT_REVISION -> inSync[about] = true; written; step = 0; about = B }
  :: d_step { step > 0 -> step = 0; about = B }                               /* it gives up, or it restarted */

  /* the standby's copy is given up: another node gets an empty one */
  :: d_step { up && phase == NOTHING && MAY_REPAIR && !diskless ->
       NEW_STALE; owed[B] = false; res[B] = SYNCING; lacks[B] = true; written }

  /* the planned change */
  :: d_step { up && phase == NOTHING && inSync[B] && !diskless -> phase = FILLING; written;
DROP_OLD }
  :: d_step { up && phase == FILLING && res[C] != HELD -> phase = READY; filled = true }
  :: d_step { up && MIRRORED && standby == B && NEW_IN_SYNC -> standby = C; inSync[C] = true; written }
  :: d_step { up && phase == READY && NAMED -> phase = PIVOTED }
  :: d_step { up && phase == PIVOTED && standby == C && inSync[C] -> assert(whole(C)); rename_new() }     /* two */
  :: d_step { up && (phase == FILLING || phase == READY) && standby == B -> drop_new() }                  /* called off */
  :: d_step { up && phase == READY && standby == C && inSync[B] -> standby = B; drop_new() }
  od
}

active proctype faults() {
  do
  :: d_step { up && phase == NOTHING && res[B] == SAME && !lacks[B] -> diskless = true }
  /* A loses power, or kills its VM to yield it; QEMU's mirror is gone with it */
  :: d_step { up -> up = false; lose(B); lose(C);
       if
       :: standby == C -> phase = PIVOTED
       :: standby == B && (phase == FILLING || phase == READY) -> drop_new()
       :: else
       fi }
  :: d_step { !up -> up = true }
  /* failover; the one that took over is A from now on, alone */
  :: d_step { !up && IN_SYNC(standby) -> assert(whole(standby));              /* stale */
       up = true; diskless = false; standby = B; step = 0; about = B; owed[B] = false;
       drop_new(); inSync[B] = false; res[B] = ALONE; lacks[B] = true }
  od
}
