/* Two machines in lockstep: A's, which is the owner's, and its twin on B. Who may go on when the other is lost?

   A's machine lets output out alone, or in a pair while its mate answers; whatever breaks a pair holds the output back
   until somebody says how it goes on. Anybody may guess at any time that the other one is lost: nobody's guess is trusted.
   A write to the ledger compares the revision that was read, travels, and may arrive long after its agent died.

   twice   only the owner by the ledger lets output out: never both
   older   a twin that goes on has all that was ever let out

   Mistakes:
     A_FIRST         A goes on alone before the ledger says that there is no twin
     B_FIRST         the twin goes on before the ledger names B
     NOT_SHUT        B swaps own with the channels still open
     A_BLIND         A's swap does not compare own's revision
     B_BLIND         B's swap does not compare own's revision
     UNPROTECTED     B takes over while the twin is still being made
     PROTECT_EARLY   "protected" is said before the two are equal
     OWNER_BLIND     a twin that B's agent finds goes on because own names B, however it came to that
     FAILS_LATE      A's making of a twin is broken off, and it goes on, after it had asked for "protected"
     QEMU_GOES_ON    a machine whose pair breaks lets its output out by itself                                  */

#ifdef A_FIRST
#define A_ALONE_BY_LEDGER true
#else
#define A_ALONE_BY_LEDGER (a_pair == NOTWIN)
#endif
#ifdef B_FIRST
#define B_BY_LEDGER true
#else
#define B_BY_LEDGER (b_owns && KEPT)
#endif
#ifdef OWNER_BLIND
#define KEPT true
#else
#define KEPT (b_kept && b_current)
#endif
#ifdef NOT_SHUT
#define SHUTTED(t) (t == SHUT || t == MATE)
#else
#define SHUTTED(t) (t == SHUT)
#endif
#ifdef OWNER_BLIND
#define GOES_ON(t) (t == SHUT || t == MATE || t == WAIT)
#else
#define GOES_ON(t) SHUTTED(t)
#endif
#ifdef A_BLIND
#define A_COMPARE true
#else
#define A_COMPARE a_fresh
#endif
#ifdef B_BLIND
#define B_COMPARE true
#else
#define B_COMPARE b_fresh
#endif
#ifdef UNPROTECTED
#define MAY_TAKE (b_pair != NOTWIN)
#else
#define MAY_TAKE (b_pair == PROTECTED)
#endif
#ifdef PROTECT_EARLY
#define EQUAL true
#else
#define EQUAL (machine == PAIRED && checkpoint)
#endif
#ifdef FAILS_LATE
#define MAKING (making || late_making)
#else
#define MAKING making
#endif
#ifdef QEMU_GOES_ON
#define BROKEN ALONE
#else
#define BROKEN PAIRED
#endif

mtype = { NONE, ALONE, PAIRED };             /* A's machine */
mtype = { WAIT, MATE, SHUT, OWNS };          /* B's twin; NONE */
mtype = { NOTWIN, PREPARING, PROTECTED };    /* own.lockstep */
mtype = { NOTHING, PART, PAIR, PROTECT, START, MOVE };

/* ---- the ledger ---- */
bool owner_b = false;
mtype pair = NOTWIN;
bool kept = false;             /* the owner's machine is the twin of own.lockstep.pair */

/* ---- the machines ---- */
mtype machine = ALONE;
mtype twin = NONE;
bool other = false;            /* B runs a machine that it started itself */
bool mated = false;            /* the two are each other's mates, and the channels are open */
bool checkpoint = false;       /* a further one was made since they are */
bool current = false;          /* the twin is of the pair of which own speaks */
bool behind = false;           /* something was let out that the twin does not have */

/* ---- A's agent: what it has read, what it waits for ---- */
bool a_knows = false; bool a_owns = false; mtype a_pair = NOTWIN; bool a_fresh = false;
mtype a_asks = NOTHING; bool a_holds = false; bool a_waits = false;
mtype a_late = NOTHING; bool late_holds = false;     /* what an agent that died had asked */
bool making = false; bool starting = false;
bool late_making = false;

/* ---- B's agent ---- */
bool b_knows = false; bool b_owns = false; mtype b_pair = NOTWIN; bool b_current = false; bool b_kept = false;
bool b_fresh = false; bool b_asks = false; bool b_holds = false; bool b_waits = false;

#define a_out (machine == ALONE || (machine == PAIRED && mated && twin == MATE))
#define b_out (twin == OWNS || other)
inline check() { assert(!(a_out && owner_b) && !(b_out && !owner_b)) }               /* twice */
/* A's machine goes on without a mate: what it lets out no twin has. */
inline apart() { mated = false; checkpoint = false; behind = true }

/* A transaction was done: whatever was read before is old, but for who did it. */
inline wrote() { a_fresh = false; b_fresh = false; a_holds = false; late_holds = false; b_holds = false }
inline applies(what) {
  if
  :: what == PART || what == START -> owner_b = false; pair = NOTWIN; kept = false
  :: what == PAIR -> owner_b = false; pair = PREPARING; current = false; kept = false
  :: what == PROTECT -> owner_b = false; pair = PROTECTED
  :: what == MOVE -> owner_b = true; pair = NOTWIN; kept = false; current = false
  fi;
  wrote(); check()
}

active proctype transactions() {
  do
  :: d_step { a_asks != NOTHING && a_holds -> applies(a_asks);
       making = (a_waits && a_asks == PAIR); starting = (a_waits && a_asks == START);
       a_knows = a_waits; a_fresh = a_waits; a_owns = !owner_b; a_pair = pair;
       a_asks = NOTHING; a_waits = false }
  :: d_step { a_asks != NOTHING && !a_holds -> a_asks = NOTHING; a_waits = false; a_knows = false }
  :: d_step { a_late != NOTHING && late_holds -> applies(a_late); a_late = NOTHING }
  :: d_step { a_late != NOTHING && !late_holds -> a_late = NOTHING }
  :: d_step { b_asks && b_holds -> owner_b = true; pair = NOTWIN; kept = true; wrote(); check();
       b_knows = b_waits; b_fresh = b_waits; b_owns = true; b_pair = NOTWIN; b_kept = true; b_current = current;
       b_asks = false; b_waits = false }
  :: d_step { b_asks && !b_holds -> b_asks = false; b_waits = false; b_knows = false }
  od
}

inline a_writes(what) { a_asks = what; a_holds = A_COMPARE; a_waits = true; making = false; starting = false }

active proctype agent_a() {
  do
  :: d_step { true ->                                           /* it dies; the next one knows nothing */
       a_late = (a_asks != NOTHING -> a_asks : a_late); late_holds = (a_asks != NOTHING -> a_holds : late_holds);
       a_asks = NOTHING; a_waits = false; a_knows = false; making = false; starting = false; late_making = false }
  :: d_step { !a_waits -> a_knows = true; a_fresh = true; a_owns = !owner_b; a_pair = pair }
  :: d_step { a_knows && !a_waits && a_owns && a_pair != NOTWIN && machine != NONE -> a_writes(PART) }
  :: d_step { a_knows && !a_waits && a_owns && A_ALONE_BY_LEDGER && machine == PAIRED ->
       machine = ALONE; apart(); check() }
  :: d_step { a_knows && !a_waits && a_owns && a_pair == NOTWIN && machine == ALONE -> a_writes(PAIR) }
  /* B's agent reads the ledger itself before it bears a twin; one that is there ends */
  :: d_step { making && twin != OWNS && !owner_b && pair == PREPARING ->
       twin = WAIT; current = true; mated = false; checkpoint = false; behind = true }
  :: d_step { making && machine == ALONE && twin == WAIT && current ->
       machine = PAIRED; twin = MATE; mated = true; behind = false; checkpoint = false; check() }
  :: d_step { mated && twin == MATE && machine == PAIRED && !checkpoint -> checkpoint = true }
  /* it does not get that far: QEMU goes on as if nothing had been */
  :: d_step { MAKING && machine == PAIRED -> machine = ALONE; apart(); making = false; late_making = false; check() }
  :: d_step { a_knows && !a_waits && a_owns && a_pair == PREPARING && EQUAL ->
       late_making = making; a_writes(PROTECT) }
  :: d_step { a_knows && !a_waits && a_owns && machine == NONE -> a_writes(START) }
  :: d_step { starting && machine == NONE -> starting = false; machine = ALONE; apart(); check() }
  :: d_step { a_knows && !a_waits && a_owns && machine == NONE && !starting -> a_writes(MOVE) }
  :: d_step { a_knows && !a_waits && !a_owns && machine != NONE -> machine = NONE; mated = false }
  od
}

active proctype agent_b() {
  do
  :: d_step { true -> b_asks = (b_asks && b_holds); b_waits = false; b_knows = false }
  :: d_step { !b_waits -> b_knows = true; b_fresh = true;
       b_owns = owner_b; b_pair = pair; b_current = current; b_kept = kept }
  :: d_step { b_knows && !b_waits && !b_owns && MAY_TAKE && b_current && (twin == WAIT || twin == MATE) && !b_asks ->
       twin = SHUT }
  :: d_step { b_knows && !b_waits && !b_owns && MAY_TAKE && b_current && SHUTTED(twin) && !b_asks ->
       b_asks = true; b_holds = B_COMPARE; b_waits = true }
  :: d_step { b_knows && !b_waits && B_BY_LEDGER && GOES_ON(twin) ->
       assert(!behind);                                                       /* older */
       twin = OWNS; mated = false; check() }
  :: d_step { b_knows && !b_waits && (twin == WAIT || twin == MATE || twin == SHUT) &&
         !(!b_owns && b_pair != NOTWIN && b_current) && !(b_owns && b_kept && b_current) ->
       twin = NONE; mated = false; checkpoint = false }
  /* it owns it, and nothing of it is here: a start, with a swap of its own */
  :: d_step { b_knows && !b_waits && b_owns && b_fresh && owner_b && twin == NONE && !other ->
       kept = false; wrote(); b_fresh = true; b_kept = false; other = true; check() }
  od
}

active proctype faults() {
  do
  :: d_step { machine != NONE -> machine = NONE; mated = false }
  :: d_step { twin != NONE -> twin = NONE; mated = false; checkpoint = false }
  :: d_step { other -> other = false }
  /* a channel breaks, or A's QEMU believes that it did */
  :: d_step { mated && machine == PAIRED -> machine = BROKEN; mated = false; checkpoint = false; check() }
  /* B's machine is the owner's, and A has nothing: the same again with the names changed */
  :: d_step { owner_b && b_out && machine == NONE && a_asks == NOTHING && a_late == NOTHING && !b_asks ->
       owner_b = false; pair = NOTWIN; kept = false; machine = ALONE; twin = NONE; other = false; mated = false;
       checkpoint = false; current = false; behind = false; making = false; starting = false; late_making = false;
       a_knows = false; b_knows = false }
  od
}
