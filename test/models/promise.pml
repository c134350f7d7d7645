/* The standby's promise: a VM that goes on while the ledger is silent, because the one node that could take it has
   said "not yet".

   PROPERTIES
     twice    the VM never executes on its owner A while own names another node          (promise P1)
     both     nor does it on two of those that may take it (LIVING)
     other    nor does a second VM of the same node, whose standby promises nothing

   B's keeper answers A's keeper: "I shall not take this VM before my fence wait has passed again, from now." For that
   VM it counts as a renewal: it is dated at A's asking and is good for D. So a VM executes while ledger OR standby
   answers, and is frozen only when both are silent. The watchdog is the whole node's: a pet needs, for EVERY VM of the
   node, that it is frozen or was renewed less than D ago.

   What it takes, and each is a variant below:
     - B's wait restarts with every promise and with every boot, and lasts WAIT > W + D (+ lateness) as any other;
     - B gives no promise from the moment it decides to swap own until it knows that this swap is done or can never
       be (own's revision has gone on); a note of it outlives its keeper's process;
     - after a boot B promises nothing before it has made its live key and read own: the first kills a swap of the boot
       before that is still on its way (the "mine" compare), the second tells B whether it is the owner itself;
     - A counts promises only while it knows, from a read of own, that own.promise is on and names B; it stops before
       it writes own.promise off, and the standby changes only while it is off;
     - SHARED: if any node may take the VM when owner and standby are both gone (safety rule 5), B promises only while
       its own renewal was sent at most X ago, and the third node waits ANY > X + W + D. Else B needs no ledger.

   SHARED is not a mistake but the other kind of disk; NO_PROMISE neither: A counts no promise, which is how it is today.
   Nor is LIVING: the third node may also take the VM of a standby that lives and for some reason does not; ANY is then
   counted from A's going alone, and both swaps may be on their way at once. With promises it breaks: B lives, and so A
   may, on B's word.

   BROKEN VARIANTS
     WAIT=n             a fence wait of exactly W + D
     PROMISE_DATED      a promise is dated from its arrival
     NOT_WAITED         B's wait does not restart with a promise
     QUIET=n            ...or the wait after a promise is exactly W + D
     BOOT_FORGETS       B's wait does not restart with its own boot
     PROMISE_IN_SWAP    B promises while its swap is under way
     INTENT_FORGOTTEN   B's keeper restarts and promises, its swap still on the way
     PROMISE_UNREAD     B promises after a boot before it has a live key and has read own
     OLD_STANDBY        A counts B's promise though it made another node the standby
     CHANGE_LATE        promises are switched on while a change of the standby is still on its way
     PET_FOR_ALL        a promise for one VM pets, though another VM executes without a renewal
     SHARED ANY=n       the third node waits exactly X + W + D
     SHARED ANY=WAIT    the third node waits as if there were no promise
     SHARED B_ALONE     B promises however long it has not reached the ledger
     SHARED NO_PROMISE ANY=n   and without any promise the third node waits exactly W + D
     SHARED LIVING             promises, and the third node takes though the standby lives
     SHARED NO_PROMISE LIVING ANY=n   it waits exactly W + D
     LIVING_BLIND              its swap does not compare own at the revision it read
     LIVING_NO_SEEN            its swap compares neither live/A nor seen/A                                               */

#ifndef W
#define W 1
#endif
#ifndef D
#define D 1
#endif
#ifndef X
#define X 1
#endif
#ifndef WAIT
#define WAIT (W + D + 1)
#endif
#ifndef QUIET
#define QUIET WAIT           /* what B waits after a promise or its boot */
#endif
#ifndef ANY
#define ANY (X + W + D + 1)
#endif

#ifdef NOT_WAITED
#define RESTART_WAIT skip
#else
#define RESTART_WAIT quiet = 1
#endif
#ifdef BOOT_FORGETS
#define QUIET_AT_BOOT (QUIET + 1)
#else
#define QUIET_AT_BOOT 1
#endif
#ifdef PROMISE_IN_SWAP
#define UNDECIDED true
#else
#define UNDECIDED (!intends)
#endif
#ifdef PROMISE_UNREAD
#define KNOWS true
#else
#define KNOWS (ready && thinksA)
#endif
#ifdef OLD_STANDBY
#define CHANGE_NEEDS_OFF true
#define STOP_COUNTING skip
#else
#define CHANGE_NEEDS_OFF (!promising)
#define STOP_COUNTING trusts = false
#endif
#ifdef NO_PROMISE
#define COUNTS false
#else
#define COUNTS true
#endif
#ifdef CHANGE_LATE
#define ON_REVISION swapping = false
#else
#define ON_REVISION written
#endif
#ifdef PET_FOR_ALL
#define OTHER_RENEWED true
#else
#define OTHER_RENEWED (!other || answer > 0)
#endif
#if defined(SHARED) && !defined(B_ALONE)
#define REACHED (renewed <= X)
#else
#define REACHED true
#endif
#ifdef LIVING
#define OWN_WRITTEN swapping = false; changing = false; OWN_READ
#define TAKEN_BY_B bRuns = true; NEVER_BOTH
#define TAKEN_BY_C cRuns = true; NEVER_BOTH
#define B_ENDS bRuns = false
#define FAR (WAIT + ANY)
#define NOBODY_ELSE (!bRuns && !cRuns)
#else
#define OWN_WRITTEN swapping = false; changing = false
#define TAKEN_BY_B skip
#define TAKEN_BY_C skip
#define B_ENDS skip
#define FAR WAIT
#define NOBODY_ELSE true
#endif
#ifdef LIVING_BLIND
#define OWN_READ skip
#define SAME_OWN true
#else
#define OWN_READ cSwaps = false
#define SAME_OWN (owner == A)
#endif
#ifdef LIVING_NO_SEEN
#define STILL_GONE true
#define A_WRITTEN swapping = false; changing = false
#else
#define STILL_GONE (!liveA)
#define A_WRITTEN written
#endif
#ifdef PROMISE_DATED
#define olderPromise(x) x = (x > 0 && x < D + 2 -> x + 1 : x)
#else
#define olderPromise(x) x = (x == 0 || x > D -> 0 : x + 1)
#endif

mtype = { A, B, C };

/* ---- the ledger ---- */
mtype owner = A;
mtype standby = B;
bool promising = true;       /* own.promise */
bool changing = false;       /* A's swap of the standby is on its way and may yet be done */
bool liveA = false;
byte absent = 1;             /* ticks since live/A went, + 1; a new one (seen/A) makes it 0 */
bool otherTaken = false;     /* the other VM is owned by its standby */
#ifdef SHARED
bool liveB = false;
byte bothAbsent = 1;         /* the same for live/A and live/B both, as the third node sees it */
#endif
#ifdef LIVING
bool cSwaps = false;         /* the third node's swap is on its way and may yet be done */
bool bRuns = false;          /* the VM executes on B, which took it; on C */
bool cRuns = false;
#endif

/* ---- A ---- */
bool up = true;
bool mine = false;           /* the live key is of this boot */
byte wd = 0;                 /* ticks since the last pet, counted while a VM executes */
byte answer = 0;             /* 0: none; else 1 + ticks since the ledger's last answer was asked for */
bool good = false;           /* ...own named A in it */
bool otherGood = false;      /* ...and the other VM was not taken */
byte promise = 0;            /* the same for B's promise */
bool trusts = false;         /* A knows that own.promise is on and names B */
bool machine = false;
bool iced = false;           /* the VM's slice is frozen */
bool other = false;          /* the other VM executes here */

/* ---- B ---- */
bool upB = true;
bool ready = false;          /* since its boot it has made its live key and read own */
bool thinksA = false;        /* own named A when it last read it, and it has not swapped since */
byte quiet = 1;              /* 1 + ticks since its last promise or boot */
bool intends = false;        /* it has decided to swap; the keeper holds a note of it */
bool swapping = false;       /* the swap is on its way and may yet be done */
#ifdef SHARED
byte renewed = 0;            /* ticks since its own last good renewal was sent */
#endif

#define executes (machine && !iced)
#define busy (up && (executes || other))
/* own (or A's live key) went on: what is on its way will be refused */
#define written OWN_WRITTEN
#define NEVER_BOTH assert(!(bRuns && cRuns))              /* both */
inline check() {
  assert(!(executes && owner != A));                    /* twice */
  assert(!(other && otherTaken))                        /* other */
}
inline older(x, max) { if :: x > 0 && x <= max -> x++ :: else fi }
inline down() {
  up = false; mine = false; wd = 0; answer = 0; good = false; otherGood = false; promise = 0; trusts = false;
  machine = false; iced = false; other = false
}
inline rest() { if :: !executes && !other -> wd = 0 :: else fi }

active proctype world() {
  do
  :: d_step { !(busy && wd >= W) ->
       if :: busy -> wd++ :: else fi;
       answer = (answer == 0 || answer > D -> 0 : answer + 1);
       if :: answer == 0 -> good = false; otherGood = false :: else fi;
       olderPromise(promise);
       older(absent, FAR); older(quiet, QUIET);
#ifdef SHARED
       older(bothAbsent, ANY);
       if :: renewed <= X -> renewed++ :: else fi;
#endif
       skip }
  :: d_step { liveA -> liveA = false; absent = 1;                          /* leases end, for whatever reason */
#ifdef SHARED
       bothAbsent = (liveB -> 0 : 1);
#endif
       skip }
#ifdef SHARED
  :: d_step { liveB -> liveB = false; bothAbsent = (liveA -> 0 : 1) }
#endif
  od
}

active proctype node_A() {
  do
  :: d_step { up -> down() }
  :: d_step { busy && wd >= W -> down() }
  :: d_step { !up -> up = true }
  /* the ledger */
  :: d_step { up && !(mine && liveA) -> liveA = true; mine = true; absent = 0; A_WRITTEN;
#ifdef SHARED
       bothAbsent = 0;
#endif
       skip }
  :: d_step { up && mine && liveA -> answer = 1; good = (owner == A); otherGood = !otherTaken;
       trusts = (COUNTS && owner == A && promising && standby == B) }
  /* a pet; see above */
  :: d_step { up && (iced || !machine || answer > 0 || (promise > 0 && trusts)) && OTHER_RENEWED -> wd = 0 }
  /* the VM */
  :: d_step { up && mine && liveA && owner == A && !machine -> machine = true; written; check() }
  :: d_step { machine && !iced -> iced = true; rest() }
  :: d_step { iced && ((answer > 0 && good) || (promise > 0 && trusts)) -> iced = false; check() }
  :: d_step { machine && iced && owner != A -> machine = false; iced = false }      /* killed, on proof */
  /* the other VM: started, or thawed, on the ledger's word alone */
  :: d_step { up && mine && liveA && !otherTaken && !other -> other = true; check() }
  :: d_step { up && !other && answer > 0 && otherGood -> other = true; check() }
  :: d_step { other -> other = false; rest() }
#ifndef SHARED
  /* the owner changes the standby */
  :: d_step { up && mine && liveA && owner == A && promising && standby == B -> STOP_COUNTING; promising = false; written }
  :: d_step { up && mine && liveA && owner == A && !promising && standby == B -> promising = true; ON_REVISION }
  :: d_step { up && mine && liveA && owner == A && CHANGE_NEEDS_OFF && standby == B && !changing -> changing = true }
  :: d_step { changing && liveA && owner == A -> standby = C; written }
  :: d_step { up && mine && liveA && owner == A && standby == C -> standby = B; written }
#endif
  od
}

active proctype node_B() {
  do
  :: d_step { upB -> upB = false; B_ENDS; ready = false; thinksA = false; intends = false; quiet = 0 }
  :: d_step { !upB -> upB = true; quiet = QUIET_AT_BOOT }
#ifdef SHARED
  :: d_step { upB && (!ready || !liveB) -> ready = true; thinksA = (owner == A); written;
       liveB = true; bothAbsent = 0; renewed = 0 }
  :: d_step { upB && ready && liveB && !intends -> renewed = 0; thinksA = (owner == A) }
#else
  :: d_step { upB && !ready -> ready = true; thinksA = (owner == A); written }
  :: d_step { upB && ready && !intends && thinksA != (owner == A) -> thinksA = (owner == A) }
#endif
  /* the promise */
  :: d_step { upB && up && KNOWS && UNDECIDED && REACHED -> promise = 1; RESTART_WAIT }
  /* failover: the decision, and the swap, done at some time after it */
  :: d_step { upB && ready && owner == A && standby == B && !liveA && absent > WAIT && quiet > QUIET && !intends ->
       intends = true; swapping = true }
  :: d_step { swapping && owner == A && standby == B && !liveA -> owner = B; thinksA = false; written; TAKEN_BY_B; check() }
  /* it learns how that went; or makes sure, by a write to own, that it can never be done */
  :: d_step { intends && !swapping -> intends = false }
  :: d_step { intends && swapping -> intends = false; written }
#ifdef INTENT_FORGOTTEN
  :: d_step { intends -> intends = false }
#endif
  od
}

active proctype others() {
  do
#ifdef SHARED
  /* any node, when owner and standby are both gone */
  :: d_step { owner == A && !liveA && !liveB && bothAbsent > ANY -> owner = C; written; TAKEN_BY_C; check() }
#ifdef LIVING
  /* or when the owner alone is, for so long that the standby seems not to be able; swapped at some time after that */
  :: d_step { owner == A && !liveA && absent > ANY -> cSwaps = true }
  :: d_step { cSwaps && SAME_OWN && STILL_GONE -> owner = C; cSwaps = false; written; TAKEN_BY_C; check() }
  :: d_step { cRuns -> cRuns = false }
#endif
#else
  :: d_step { owner == A && standby == C && !liveA && absent > WAIT -> owner = C; written; check() }
#endif
  /* the other VM's standby */
  :: d_step { !otherTaken && !liveA && absent > WAIT -> otherTaken = true; check() }
  /* planned, back again */
  :: d_step { owner != A && !machine && NOBODY_ELSE -> owner = A; standby = B; promising = true; written }
  :: d_step { otherTaken && !other -> otherTaken = false }
  od
}
