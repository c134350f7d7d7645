/* The keeper of one node: RUN, ICE, THAW; starting a VM; killing what another node owns.

   PROPERTIES
     twice    the VM never executes on A and on B at once                  (promise P1)
     older    a machine never executes under a later term of ownership than the one it was started in:
              its memory would be older than its disk
     wrongly  the keeper destroys only what an older term left             (safety: destroy on proof)

   A is the node with the keeper. B stands for "some standby": it waits WAIT after A's live key went, takes the VM, and
   may give it back later. How B does that in detail is in ownership.pml.

     RUN    VMs execute; a pet ONLY right after a good renewal
     ICE    the slice is frozen, and once that is confirmed the keeper pets freely: the node stays up
     THAW   still frozen; no free pet; a good renewal with a read of own, asked for in THAW, leads to RUN

   A start has two steps: own is swapped, then the machine comes to life, arbitrarily late (libvirtd is slow, or the
   agent that asked is dead). The slice is frozen as a whole, so what comes to life in ICE is born frozen. A start
   still under way from an older term keeps the slice frozen: it would be born awake after the thaw, when nothing
   stands between it and the other node's machine. (The agent leaves a note on its node before it swaps own, and
   removes it when the machine is there or has failed. A slice for each VM, thawed alone, would do as well.)

   The keeper's process may die at any time and comes back within the boot; the slice stays as it is. It opens the
   watchdog only with a good renewal, or with everything frozen, because opening may pet. And Linux pets a watchdog
   that it cannot stop when its last file is closed (watchdog_release, drivers/watchdog/watchdog_dev.c), so a keeper's
   death is a pet as well, unless another process has the device open too: that is the sound case here.

   Time, early end of leases and bad luck: as in ownership.pml.

   BROKEN VARIANTS
     WAIT=n           a fence wait of exactly W + D
     PET_WHILE_THAW   free petting goes on until the slice is thawed
     PET_UNCONFIRMED  free petting begins when freezing is asked for, not when it is confirmed
     THAW_UNREAD      THAW ends with a good renewal, own is not read
     THAW_OLD_READ    own may have been read before THAW began
     THAW_BY_NAME     own's name is compared with this node's, not its term with the machine's
     THAW_STARTING    the slice is thawed while a start of an older term is under way
     BORN_AWAKE       the machines that are there are frozen, not the slice
     KILL_UNPROVEN    the keeper destroys what it cannot read the ownership of
     RESTART_PETS     a keeper that comes back pets before its first good renewal
     DEATH_PETS       nobody but the keeper has the device open
     DEATH_PETS WAIT=2W+D   ...and the wait is one tick too short for that; with 2W+D+1 all holds
     DEATH_PETS RESTART_PETS WAIT=2W+D+1   ...and a keeper that dies again and again pets for ever               */

#ifndef W
#define W 2
#endif
#ifndef D
#define D 1
#endif
#ifndef WAIT
#define WAIT (W + D + 1)
#endif

/* ---- the rules that a variant switches off ---- */
#ifdef PET_UNCONFIRMED
#define ICED (mode == ICE)
#else
#define ICED (mode == ICE && frozen)
#endif
#ifdef PET_WHILE_THAW
#define MAY_PET (ICED || (mode == RUN && frozen))
#else
#define MAY_PET ICED
#endif
#ifdef THAW_UNREAD
#define GOOD true
#else
#define GOOD good
#endif
#ifdef THAW_OLD_READ
#define FORGET skip
#define REMEMBER good ||
#else
#define FORGET good = false
#define REMEMBER
#endif
#ifdef THAW_BY_NAME
#define FITS(x) true
#else
#define FITS(x) ((x) != OLDER)
#endif
#ifdef THAW_STARTING
#define START_FITS true
#else
#define START_FITS (start == NONE || (owner == A && FITS(start)))
#endif
#ifdef BORN_AWAKE
#define BORN_FROZEN false
#else
#define BORN_FROZEN frozen
#endif
#ifdef KILL_UNPROVEN
#define PROVEN (machine != NONE)
#else
#define PROVEN (machine == OLDER)
#endif
#ifdef RESTART_PETS
#define OPENS holds = true; wd = 0
#else
#define OPENS holds = frozen
#endif
#ifdef DEATH_PETS
#define CLOSED if :: holds -> wd = 0 :: else fi
#else
#define CLOSED skip
#endif
mtype = { A, B };
mtype = { RUN, ICE, THAW };
mtype = { NONE, CURRENT, OLDER };   /* whether a thing of A's is of own's present term */

/* ---- the ledger ---- */
mtype owner = A;
bool live = false;           /* live/A */

/* ---- B ---- */
byte wait = 0;               /* 0: none; else 1 + ticks since live/A went; a new live key (seen/A) ends it */
bool b_runs = false;

/* ---- A ---- */
bool up = true;
byte wd = 0;                 /* ticks since the last pet */
bool frozen = false;         /* the slice */
mtype start = NONE;          /* own was swapped for it, the machine is not there yet */
mtype machine = NONE;        /* QEMU's process */
bool awake = false;          /* ...which was born outside of the freeze */

/* ---- A's keeper ---- */
bool keeper = true;
bool holds = true;           /* it has the device open and can pet */
mtype mode = RUN;
bool mine = false;           /* the id of its lease, in a file that lasts as long as the boot */
byte answer = 0;             /* 0: no renewal under way; else 1 + ticks since it was sent */
bool good = false;           /* what that renewal reads of own permits a thaw */

#define executes (machine != NONE && (!frozen || awake))
inline check() {
  assert(!(executes && b_runs));                   /* twice */
  assert(!(executes && machine == OLDER))          /* older */
}
inline term(x) { if :: x == CURRENT -> x = OLDER :: else fi }
inline down() {
  up = false; wd = 0; frozen = false; start = NONE; machine = NONE; awake = false;
  keeper = false; holds = false; mode = RUN; mine = false; answer = 0; good = false
}

active proctype world() {
  do
  :: d_step { !(up && wd >= W) ->
       if :: up -> wd++ :: else fi;
       answer = (answer == 0 || answer > D -> 0 : answer + 1);      /* too old to be of use: dropped */
       if :: wait > 0 && wait <= WAIT -> wait++ :: else fi }
  :: d_step { live -> live = false; wait = 1 }                      /* the lease ends, for whatever reason */
  od
}

active proctype node() {
  do
  :: d_step { up -> down() }
  :: d_step { up && wd >= W -> down() }                             /* the watchdog bites */
  :: d_step { !up -> up = true; keeper = true; holds = true }
  /* the agent swaps own; then the machine comes to life, or fails to */
  :: d_step { up && mine && live && owner == A && start == NONE && machine == NONE -> start = CURRENT }
  :: d_step { start != NONE && machine == NONE -> machine = start; start = NONE; awake = frozen && !BORN_FROZEN; check() }
  :: d_step { start != NONE -> start = NONE }
  :: d_step { machine != NONE && !frozen -> machine = NONE; awake = false }   /* the guest shuts down */
  od
}

active proctype keeps() {
  do
  /* the process dies, and comes back */
  :: d_step { keeper -> keeper = false; answer = 0; FORGET; CLOSED; holds = false }
  :: d_step { up && !keeper -> keeper = true; mode = (frozen -> ICE : RUN); OPENS }
  /* the lease */
  :: d_step { keeper && !(mine && live) -> live = true; mine = true; wait = 0 }
  :: d_step { keeper && mine && live && answer == 0 -> answer = 1;
       good = REMEMBER ((owner == A -> FITS(machine) : machine == NONE) && START_FITS) }
  :: d_step { keeper && answer > 0 && mode != ICE -> answer = 0; holds = true; wd = 0;      /* a good renewal pets */
       if :: mode == THAW && GOOD -> mode = RUN :: else fi; FORGET }
  /* the freezer */
  :: d_step { keeper && mode == RUN -> mode = ICE; answer = 0; FORGET }     /* late renewals, or "lease not found" */
  :: d_step { keeper && mode == ICE && !frozen -> frozen = true; holds = true }
  :: d_step { keeper && holds && MAY_PET -> wd = 0 }
  :: d_step { keeper && mode == ICE && frozen -> mode = THAW; answer = 0; FORGET }
  :: d_step { keeper && mode == THAW -> mode = ICE; answer = 0; FORGET }
  :: d_step { keeper && mode == RUN && frozen -> frozen = false; check() }
  /* it kills; that own has gone on to a later term can be read now or at any time later, it stays true */
  :: d_step { keeper && mode != RUN && PROVEN -> assert(machine == OLDER); machine = NONE; awake = false } /* wrongly */
  od
}

active proctype standby() {
  do
  :: d_step { owner == A && !live && wait > WAIT -> owner = B; b_runs = true; term(machine); term(start); check() }
  :: d_step { owner == B -> b_runs = false; owner = A }             /* planned, or B too failed over to A */
  od
}
