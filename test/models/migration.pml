/* Live migration of a VM from A, its owner, to B, its standby.

   PROPERTIES
     twice    the VM never executes on A and on B at once                  (promise P1)
     older    a copy that arrived is resumed only while its memory is as new as the disk

   The order: A's agent swaps own to `migrating`; libvirt copies; the copy arrives PAUSED; when A's agent has libvirt's
   word that the copy is whole, both stand still, and A's agent swaps own to B, or back to itself; only then it ends the
   source, or lets it go on. B resumes the copy only when own says that this very migration was handed over.

   What libvirt does (its protocol 3, its phases called by A's agent): the source is stopped when all is sent
   ("perform"); "finish" makes the copy whole on the target. When the reply to that does not reach A's agent, or anything
   else fails, THE SOURCE RESUMES, however whole the copy on the target is. From then on the copy's memory is older than
   the disk. Without its agent the source stays as it is.

   No agent's memory outlives its process: but for one result that libvirt gave, everything is read again from ledger
   and libvirt. So "the agent restarts" is: that result is lost, and the job with it. A migration that an agent finds
   begun is broken off.

   Failover is allowed when A is off or frozen; that it is so after the fence wait is what ownership.pml and
   freeze.pml show. A frozen A may come back: it kills what own gave away and thaws what it still owns.

   BROKEN VARIANTS
     ARRIVES_RUNNING   the copy is not paused on arrival
     SWAP_EARLY        A swaps own when all is sent, before libvirt reports success
     TARGET_SWAPS      B swaps own itself once its copy is whole
     RESUME_UNASKED    B's agent resumes a whole, paused copy that it finds
     RESUME_BY_NAME    B resumes when own names B, by whatever transition (so also after a failover)
     FAILOVER_RESUMES  failover from `migrating` takes the paused copy over
     GONE_IS_MIGRATED  a restarted agent hands over because its machine is gone and the copy whole
     NO_FENCE          failover from an A that is neither off nor frozen
     THAW_UNREAD       A thaws without reading own                                                              */

#ifdef ARRIVES_RUNNING
#define ARRIVE target = RUNS
#else
#define ARRIVE target = WHOLE
#endif
#ifdef SWAP_EARLY
#define REPORTED (result == SUCCESS || source == SENT)
#define DECIDED skip
#else
#define REPORTED (result == SUCCESS)
#define DECIDED job = false
#endif
#ifdef RESUME_BY_NAME
#define MAY_RESUME (owner == B)
#else
#ifdef RESUME_UNASKED
#define MAY_RESUME true
#else
#define MAY_RESUME (owner == B && handedOver)
#endif
#endif
#ifdef FAILOVER_RESUMES
#define BY_FAILOVER true
#else
#define BY_FAILOVER false
#endif
#ifdef NO_FENCE
#define FENCED true
#else
#define FENCED (!up || iced)
#endif
#ifdef THAW_UNREAD
#define MAY_THAW true
#else
#define MAY_THAW (owner == A || source == OFF)
#endif

mtype = { A, B };
mtype = { OFF, RUNS, SENT, FILLING, WHOLE };
mtype = { NOTHING, SUCCESS, FAILURE };

/* ---- the ledger ---- */
mtype owner = A;
bool migrating = false;
bool handedOver = false;      /* own was last written by the hand-over of the migration whose copy B has */

/* ---- A ---- */
bool up = true;
bool iced = false;            /* cut off from the ledger, its slice frozen */
mtype source = OFF;           /* OFF, RUNS, SENT: stopped, all of it is on its way */
bool job = false;             /* libvirt is at it */
mtype result = NOTHING;       /* what libvirt told the agent that asked */

/* ---- B ---- */
mtype target = OFF;           /* OFF, RUNS, FILLING, WHOLE: both paused */
bool sent = false;            /* all that the copy needs is on its way or there */
bool older = false;           /* the source went on after the copy was taken */

#define talks (up && !iced)   /* A reaches the ledger, and its own is what it read: every swap compares the revision */
#define executes (source == RUNS && up && !iced)
inline check() { assert(!(executes && target == RUNS)) }                       /* twice */
inline resumes_source() { source = RUNS; older = (target != OFF); check() }

active proctype libvirt() {
  do
  :: d_step { job && source == RUNS && target == FILLING && !iced && up -> source = SENT; sent = true }
  :: d_step { target == FILLING && sent -> ARRIVE; check() }                   /* "finish", however late */
  :: d_step { job && source == SENT && target == WHOLE && result == NOTHING -> result = SUCCESS }   /* its reply arrives */
  :: d_step { job && source == SENT && result == NOTHING ->                    /* or does not */
       resumes_source(); job = false; result = FAILURE }
  :: d_step { job && source == RUNS -> job = false; result = FAILURE }         /* broken off earlier */
  :: d_step { job && source == OFF -> job = false; result = FAILURE }
  :: d_step { !job && target == FILLING && !sent -> target = OFF }             /* B's libvirt gives up the rest */
  od
}

active proctype source_agent() {
  do
  :: d_step { job || result != NOTHING -> job = false; result = NOTHING }      /* it restarts */
  :: d_step { talks && owner == A && !migrating && source == RUNS && target == OFF && !job ->
       migrating = true; handedOver = false; job = true; result = NOTHING;
       target = FILLING; sent = false; older = false }
  /* the hand-over */
  :: d_step { talks && owner == A && migrating && REPORTED -> owner = B; migrating = false; handedOver = true;
       DECIDED; result = NOTHING; check() }
  /* or not, though the copy is whole: the target is gone, or was a moment ago */
  :: d_step { talks && owner == A && migrating && result == SUCCESS -> migrating = false; job = false; result = NOTHING }
  /* it failed: stay here */
  :: d_step { talks && owner == A && migrating && result == FAILURE -> migrating = false; result = NOTHING }
  /* restarted, or the node was: no job, no result, own says `migrating` */
  :: d_step { talks && owner == A && migrating && !job && result == NOTHING -> migrating = false }
#ifdef GONE_IS_MIGRATED
  :: d_step { talks && owner == A && migrating && !job && source == OFF && target == WHOLE ->
       owner = B; migrating = false; handedOver = true }
#endif
  /* what stands still goes on where own says that it stays, and ends where own says that it went */
  :: d_step { talks && owner == A && !migrating && source == SENT && !job -> resumes_source() }
  :: d_step { talks && owner == B && source != OFF -> source = OFF; job = false }
  /* a start, a new machine; never while `migrating` */
  :: d_step { talks && owner == A && !migrating && source == OFF -> source = RUNS; check() }
  od
}

active proctype target_agent() {
  do
  :: d_step { target == WHOLE && MAY_RESUME -> assert(!older); target = RUNS; check() }    /* older */
#ifdef TARGET_SWAPS
  :: d_step { target == WHOLE && owner == A && migrating -> owner = B; migrating = false; handedOver = true }
#endif
  /* a copy that no migration of the present own wants */
  :: d_step { (target == WHOLE || target == FILLING) && !(owner == A && migrating) && !(owner == B && handedOver) ->
       target = OFF }
  /* failover; whatever is there of a copy is destroyed by the line above before a new machine can start */
  :: d_step { owner == A && FENCED -> owner = B; migrating = false; handedOver = BY_FAILOVER }
  :: d_step { owner == B && target == OFF -> target = RUNS; check() }
  /* and back again, shut down, as planned */
  :: d_step { owner == B && target == RUNS && talks && source == OFF -> target = OFF; owner = A; handedOver = false }
  od
}

active proctype faults() {
  do
  :: d_step { target != OFF -> target = OFF; sent = false }                    /* B or its QEMU dies */
  :: d_step { up && source != OFF -> source = OFF }          /* A's QEMU dies, or the guest shuts down */
  :: d_step { up -> up = false; iced = false; source = OFF; job = false; result = NOTHING }
  :: d_step { !up -> up = true }
  :: d_step { up && !iced -> iced = true }
  :: d_step { iced && owner == B && source != OFF -> source = OFF }      /* the keeper kills, on proof */
  :: d_step { iced && MAY_THAW -> iced = false; check() }
  od
}
