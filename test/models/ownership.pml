/* Ownership of one VM between two nodes: lease, watchdog, fence wait, failover, hand-over.

   PROPERTIES
     twice    the VM never runs on both nodes                              (promise P1)
     stale    it is never taken over on a copy that lacks a write the
              guest was told is on disk                                    (promise P3)

   The two nodes are alike: each owns in turn, each stands by for the other. Nothing is capped except ages that no
   longer matter, so the whole of the behaviour is searched, for ever and not for n failures.

   Bad luck needs no variables of its own: a message that is lost, a cut network or a stalled program is an action
   that is not taken for a while, and every action here may wait as long as it likes. Only two things are urgent: an
   armed watchdog that is due, and time itself.

   A lease may end AT ANY MOMENT, early ones included (etcd had such a bug), so the lease's length appears nowhere:
   safety must not rest on it. What a standby counts on is the owner's watchdog, by own.fence.waitMs.

   TIME is in ticks. A renewal is a read of the node's live key in the ledger; its answer arrives later. Sending and
   reading are one step here, which is the worst case: a real request was sent before it was read.

   BROKEN VARIANTS (each must be caught; test/models/variants.ts)
     ANSWER_DATED     a pet is dated from the answer of the renewal, not from its sending
     OLD_LEASE        a booted node goes on with the live key of the boot before
     AUTOSTART        libvirt starts the VM at boot
     DEPOSED          a renewal counts without seeing the live key (a deposed leader answers)
     WAIT=0 F=0       no fence wait
     WAIT=n           a fence wait of exactly W + D + lateness, with these W and LATE
     NO_WAIT_MS       the standby waits the cluster's F and not own.fence.waitMs
     REAL_LATE=n      the watchdog is later than was measured
     WAIT_DATED_EARLY the standby's wait is dated from before it read the key as absent
     NO_SEEN          failover does not compare seen/<owner>
     NO_MINE          failover does not compare the standby's own live key
     UNARMED          failover does not ask whether the owner is armed
     ARMED_EARLY      own says armed before the keeper has the watchdog
     DISARM_FIRST     the watchdog is let go before own says so
     ARMED_KEPT       a start leaves own.fence as the boot before wrote it
     HANDOVER_BLIND   hand-over does not look whether the target is armed
     OLD_PROOF        proof of a power-off outlives the node's return (is not bound to seen/<owner>)
     MOVE_RUNNING     the standby moves a VM as a stopped one without asking whether own says stopped
     STOPPED_EARLY    own says stopped before the machine is down
     YIELD_EARLY      an owner gives the VM to its standby before its machine is down
     YIELD_STALE      ...or to a copy that is stale
     NO_STALE         the fence-peer handler lets writes go on without writing "stale"
     STALE_TAKEN      failover does not ask whether the standby is in sync                                        */

#ifndef W
#define W 1            /* the watchdog resets the node W ticks after the last pet... */
#endif
#ifndef LATE
#define LATE 0         /* ...or up to this much later, as measured on the node */
#endif
#ifndef REAL_LATE
#define REAL_LATE LATE
#endif
#ifndef D
#define D 1            /* a pet is allowed while the renewal was sent at most D ago */
#endif
#ifndef WAIT
#define WAIT (W + D + LATE + 1)  /* own.fence.waitMs, written by an armed owner */
#endif
#ifndef F
#define F 1            /* the cluster's fence wait; shorter than WAIT here, so that it is WAIT that protects */
#endif

#ifdef NO_WAIT_MS
#define NEED F
#else
#define NEED (WAIT > F -> WAIT : F)
#endif

/* ---- the rules that a variant switches off ---- */
#ifdef DEPOSED
#define SEES_LIVE(n) true
#else
#define SEES_LIVE(n) live[n]
#endif
#ifdef OLD_LEASE
#define TRUST_OLD(n) mine[n] = live[n]
#else
#define TRUST_OLD(n) skip
#endif
#ifdef AUTOSTART
#define LIBVIRT_BOOTS(n) runs[n] = true; never_twice()
#else
#define LIBVIRT_BOOTS(n) skip
#endif
#ifdef ARMED_EARLY
#define CONFIRMED(n) true
#else
#define CONFIRMED(n) dev[n]
#endif
#ifdef DISARM_FIRST
#define CLEARED(n) true
#else
#define CLEARED(n) (!liveArmed[n] && !(owner == n && armed))
#endif
#ifdef ARMED_KEPT
#define FENCE_AT_START(n) armed
#else
#define FENCE_AT_START(n) dev[n]
#endif
#ifdef HANDOVER_BLIND
#define TARGET_ARMED(n) true
#else
#define TARGET_ARMED(n) liveArmed[n]
#endif
#ifdef NO_STALE
#define WRITE_STALE skip
#else
#define WRITE_STALE sync = false
#endif
#ifdef STALE_TAKEN
#define IN_SYNC true
#else
#define IN_SYNC sync
#endif
#ifdef NO_MINE
#define MINE(n) up[n]
#else
#define MINE(n) alive(n)
#endif
#ifdef UNARMED
#define ARMED true
#else
#define ARMED armed
#endif
#ifdef NO_SEEN
#define SEEN_SAME(n) true
#else
#define SEEN_SAME(n) seenSame[n]
#endif
#ifdef SHARED                    /* not a mistake but the other kind of disk: one that both nodes reach */
#define LEFT_BEHIND skip
#else
#define LEFT_BEHIND sync = false; disk = ALONE
#endif
#ifdef WAIT_DATED_EARLY
#define BEGUN 2
#else
#define BEGUN 1
#endif
#ifdef OLD_PROOF
#define BACK_ON(n) skip
#else
#define BACK_ON(n) if :: owner == n -> proof = false :: else fi
#endif
#ifdef MOVE_RUNNING
#define IS_STOPPED true
#else
#define IS_STOPPED stopped
#endif
#ifdef STOPPED_EARLY
#define DOWN(n) true
#else
#define DOWN(n) (!active(n))
#endif

#ifdef YIELD_EARLY
#define NOTHING_LEFT(n) true
#else
#define NOTHING_LEFT(n) (!active(n))
#endif
#ifdef YIELD_STALE
#define WHOLE true
#else
#define WHOLE (sync && disk == MIRRORED)
#endif

#define other(n) (1 - (n))

/* ---- the ledger ---- */
byte owner = 0;              /* own.owner; the other node is the standby */
bool stopped = true;         /* own.state */
bool armed = false;          /* own.fence.armed */
bool sync = true;            /* own: the standby's copy has everything */
bool live[2];                /* live/<n> exists */
bool liveArmed[2];           /* ...and says that the keeper has the watchdog */
bool proof = false;          /* fenced/<owner>: it was seen without power, in this absence */

/* ---- the nodes ---- */
bool up[2] = true;
bool mine[2];                /* the live key that this boot made is known to the node */
bool dev[2];                 /* the watchdog device is open: it will reset the node */
byte wd[2];                  /* ticks since the last pet; counted while a VM could run */
byte answer[2];              /* 0: no renewal under way; else 1 + ticks since it was sent */
bool starting[2];            /* own was swapped, the machine will come to life at some time */
bool runs[2];

/* ---- the waiting: wait[n] is kept by the other node ---- */
byte wait[2];                /* 0: none; else 1 + ticks since it read live/<n> as absent */
bool seenSame[2];            /* seen/<n> in the ledger is still what it was then */

/* ---- the disk ---- */
mtype = { MIRRORED, HELD, ALONE };
mtype disk = MIRRORED;       /* HELD: link gone, writes wait. ALONE: the guest was told of writes the standby lacks */

#define alive(n) (up[n] && mine[n] && live[n])       /* the "mine" compare of a transaction */
#define active(n) (runs[n] || starting[n])

inline never_twice() { assert(!(runs[0] && runs[1])) }   /* twice */

inline down(n) {
  up[n] = false; dev[n] = false; mine[n] = false; wd[n] = 0; answer[n] = 0;
  starting[n] = false; runs[n] = false;
  wait[other(n)] = 0; seenSame[other(n)] = false
}

#ifdef ANSWER_DATED
#define older(x) x = (x > 0 && x < D + 2 -> x + 1 : x)
#else
#define older(x) x = (x == 0 || x > D -> 0 : x + 1)  /* an answer too old to be of use is dropped */
#endif
inline tick(n) {
  if :: dev[n] && active(n) -> wd[n]++ :: else fi;
  older(answer[n]);
  if :: wait[n] > 0 && wait[n] <= NEED -> wait[n]++ :: else fi
}
#define due(n) (dev[n] && active(n) && wd[n] >= W + REAL_LATE)

active [2] proctype node() {
  byte n = _pid;
  byte o = other(n);
  do
  /* -- power and boot -- */
  :: d_step { up[n] -> down(n) }
  :: d_step { !up[n] -> up[n] = true; TRUST_OLD(n); LIBVIRT_BOOTS(n) }
  :: d_step { dev[n] && active(n) && wd[n] >= W -> down(n) }       /* the watchdog bites */

  /* -- the lease -- */
  :: d_step { live[n] -> live[n] = false; liveArmed[n] = false }   /* it ends, for whatever reason */
  :: d_step { up[n] && !alive(n) ->                                /* a new live key, and seen/<n> with it */
       live[n] = true; mine[n] = true; liveArmed[n] = dev[n]; seenSame[n] = false; BACK_ON(n) }
  :: d_step { up[n] && mine[n] && dev[n] && active(n) && answer[n] == 0 && SEES_LIVE(n) -> answer[n] = 1 }
  :: d_step { answer[n] > 0 -> wd[n] = 0; answer[n] = 0 }          /* a good renewal pets */

  /* -- the watchdog, and what the ledger says of it -- */
  :: d_step { up[n] && !dev[n] -> dev[n] = true; wd[n] = 0 }
  :: d_step { alive(n) && dev[n] && !liveArmed[n] -> liveArmed[n] = true }
  :: d_step { alive(n) && owner == n && !armed && CONFIRMED(n) -> armed = true }
  :: d_step { alive(n) && (liveArmed[n] || (owner == n && armed)) ->
       liveArmed[n] = false; if :: owner == n -> armed = false :: else fi }
  :: d_step { up[n] && dev[n] && CLEARED(n) -> dev[n] = false; wd[n] = 0; answer[n] = 0 }

  /* -- the VM: swap own, then, at some time, the machine comes to life; when it is down, own says so -- */
  :: d_step { alive(n) && owner == n && !active(n) ->
       starting[n] = true; wd[n] = 0; stopped = false; armed = FENCE_AT_START(n) }
  :: d_step { starting[n] -> starting[n] = false; runs[n] = true; never_twice() }
  :: d_step { runs[n] -> runs[n] = false; wd[n] = 0; answer[n] = 0 }   /* shut down, or QEMU died */
  :: d_step { alive(n) && owner == n && !stopped && DOWN(n) -> stopped = true; armed = false }

  /* -- the owner's disk: fence-peer, then "in sync" again -- */
  :: d_step { owner == n && alive(n) && disk == HELD -> WRITE_STALE; disk = ALONE }
  :: d_step { owner == n && alive(n) && disk == MIRRORED && !sync -> sync = true }

  /* -- hand-over: the machine has arrived at the target, paused, and comes to life once own names the target -- */
  :: d_step { owner == n && alive(n) && runs[n] && sync && disk == MIRRORED && live[o] && TARGET_ARMED(o) ->
       owner = o; armed = true; proof = false;
       runs[n] = false; wd[n] = 0; answer[n] = 0;
       starting[o] = mine[o]; wd[o] = 0 }      /* a target that booted since has no machine to wake */

  /* -- an owner that cannot start it gives it over, off: nobody has to be waited for -- */
  :: d_step { owner == n && alive(n) && NOTHING_LEFT(n) && WHOLE && live[o] ->
       assert(disk != ALONE);
       owner = o; stopped = true; armed = false; proof = false }

  /* -- the standby looks at the ledger now and then -- */
  :: d_step { up[n] && live[o] && wait[o] > 0 -> wait[o] = 0; seenSame[o] = false }
  :: d_step { up[n] && !live[o] && (wait[o] == 0 || !SEEN_SAME(o)) -> wait[o] = BEGUN; seenSame[o] = true }
  /* -- and fails over; or moves what is stopped, for which nobody has to be waited for -- */
  :: d_step { owner == o && MINE(n) && !stopped && IN_SYNC && !live[o] &&
       (proof || (wait[o] > NEED && ARMED && SEEN_SAME(o))) ->
       assert(disk != ALONE);                                        /* stale */
       owner = n; armed = dev[n]; LEFT_BEHIND; proof = false;
       starting[n] = true; wd[n] = 0 }
  :: d_step { owner == o && MINE(n) && IS_STOPPED && IN_SYNC && !live[o] && wait[o] > 0 && SEEN_SAME(o) ->
       assert(disk != ALONE);
       owner = n; LEFT_BEHIND; proof = false }
  od
}

active proctype world() {
  do
  :: d_step { !due(0) && !due(1) -> tick(0); tick(1) }
  /* the link between the copies breaks, and comes back: the copies are alike again */
  :: d_step { disk == MIRRORED -> disk = HELD }
  :: d_step { disk != MIRRORED && up[0] && up[1] -> disk = MIRRORED }
  /* a BMC, or somebody, takes the owner's power away and says so */
  :: d_step { !proof -> down(owner); proof = true }
  od
}
