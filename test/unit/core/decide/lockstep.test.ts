import t from 'tap';
import {
  cannotPartMs,
  decideLockstep,
  lockstepAfter,
  ownAlone,
  ownPairing,
  ownProtected,
  ownTaken,
  ownerGoneMs,
  ownerQuietMs,
  ownerSilentMs,
  stuckForTwinMs,
  stuckMs,
  twinGoneMs,
  twinQuietMs,
  twinSilentMs,
  type LockstepView,
  type MachineHere,
} from '../../../../core/decide/lockstep.js';
import { firstOwn } from '../../../../core/decide/vm-make.js';
import { protectionLevel, vmHaDefault } from '../../../../core/domain/ha.js';
import { vmOwnSchema, type VmOwn } from '../../../../core/domain/vm.js';

const now = 1_000_000;
const ha = { ...vmHaDefault, enabled: true, lockstep: true };
const born = { ...firstOwn('n1', null), state: 'running' as const, gen: 5 };
const alone: VmOwn = { ...born, ...lockstepAfter(born, true) };
const preparing = ownPairing(alone, 'n2');
const whole = ownProtected(preparing);
const pair = preparing.gen;

const primary: MachineHere = {
  gen: whole.gen,
  role: 'primary',
  running: true,
  checkpoints: 7,
  lastCheckpointMs: now - 100,
  broken: null,
  panicked: false,
  settled: true,
};
const twin: MachineHere = { ...primary, role: 'twin', gen: pair };
const quiet = (m: MachineHere, ms: number): MachineHere => ({ ...m, lastCheckpointMs: now - ms });

const owner: LockstepView = {
  me: 'n1',
  spec: { power: 'running', ha },
  own: whole,
  live: true,
  ends: false,
  frozen: false,
  leaves: false,
  twinLeaves: false,
  here: primary,
  ended: 'lost',
  joining: false,
  peer: { silentMs: 100, channelSilentMs: 100, goneMs: 0, word: 'well' },
  deafUntilMs: -Infinity,
  restUntilMs: -Infinity,
};
const second: LockstepView = { ...owner, me: 'n2', here: twin };
const silent = (ms: number): LockstepView['peer'] => ({
  silentMs: ms,
  channelSilentMs: ms,
  goneMs: 0,
  word: 'well',
});

const does = (v: LockstepView): string => decideLockstep(v, now).step.do;
const why = (v: LockstepView): string => {
  const { step } = decideLockstep(v, now);
  return 'why' in step ? step.why : '';
};

await t.test('levels of protection', async (t) => {
  t.equal(protectionLevel({ enabled: false, lockstep: true }), 'none');
  t.equal(protectionLevel({ enabled: true }), 'restart');
  t.equal(protectionLevel(ha), 'lockstep');
});

await t.test('what is written, step by step, is readable and one generation higher', async (t) => {
  t.same(alone.lockstep, { twin: null, state: 'alone', pair: null });
  t.match(preparing, { gen: 6, lockstep: { twin: 'n2', state: 'preparing', pair: 6 } });
  t.match(whole, { gen: 7, owner: 'n1', lockstep: { twin: 'n2', state: 'protected', pair: 6 } });
  t.match(ownAlone(whole), { gen: 8, lockstep: { twin: null, state: 'alone', pair: null }, left: ['n2'] });
  const taken = ownTaken(whole, 'n2');
  t.match(taken, {
    gen: 8,
    owner: 'n2',
    standby: null,
    lockstep: { twin: null, state: 'alone', pair: 6 },
    left: ['n1'],
  });
  t.match(
    ownPairing(taken, 'n1'),
    { lockstep: { twin: 'n1', pair: 9 }, left: [] },
    'what is left there is written over',
  );
  for (const own of [alone, preparing, whole, taken]) t.same(vmOwnSchema.parse(own), own);
  t.same(lockstepAfter(alone, false), { lockstep: null });
  t.match(
    lockstepAfter(whole, false),
    { lockstep: null, left: ['n2'] },
    'files of its twin are not forgotten',
  );
  t.match({ ...taken, ...lockstepAfter(taken, true) }, { lockstep: { pair: null }, left: ['n1'] });
});

await t.test('an owner gets a twin only when it runs, wants one, may write, and has rested', async (t) => {
  const v = { ...owner, own: alone, here: { ...primary, role: 'alone' as const, checkpoints: 0 } };
  t.equal(does(v), 'pair');
  for (const patch of [
    { live: false },
    { ends: true },
    { frozen: true },
    { joining: true },
    { restUntilMs: now + 1 },
    { spec: { power: 'paused' as const, ha } },
    { spec: { power: 'running' as const, ha: { ...ha, lockstep: false } } },
    { here: { ...v.here, running: false } },
    { here: { ...v.here, settled: false } },
    { here: null },
    { own: born },
  ])
    t.equal(does({ ...v, ...patch }), 'none', JSON.stringify(Object.keys(patch)));
  t.equal(does({ ...v, here: primary }), 'go-alone', 'the ledger says so already');
});

await t.test('a twin counts only after a further checkpoint of a pair that is well', async (t) => {
  const v = { ...owner, own: preparing };
  t.equal(does(v), 'protect');
  t.equal(does({ ...v, joining: true }), 'none');
  t.equal(does({ ...v, peer: { ...v.peer, word: null } }), 'none', 'its node has not said anything yet');
  t.equal(does({ ...v, here: { ...primary, checkpoints: 0 } }), 'part', 'an agent died while it was made');
  t.equal(does({ ...v, here: { ...primary, role: 'alone' } }), 'part');
  t.equal(does({ ...v, here: { ...primary, broken: 'gone' } }), 'part');
});

await t.test('an owner parts from a twin that is lost, and from no other', async (t) => {
  t.equal(does(owner), 'none');
  t.equal(
    does({ ...owner, peer: silent(60_000) }),
    'none',
    'checkpoints prove that it lives: its agent is dead',
  );
  const still = { ...owner, here: quiet(primary, twinQuietMs) };
  t.equal(does(still), 'none', 'a long checkpoint, and its node is heard');
  t.match(why({ ...still, peer: silent(twinSilentMs) }), /silent/);
  t.equal(
    does({ ...still, peer: silent(twinSilentMs), deafUntilMs: now + 1 }),
    'none',
    'it stood still itself',
  );
  t.equal(
    does({ ...still, peer: { ...owner.peer, channelSilentMs: 60_000 } }),
    'part',
    'the network that carries the pair is cut',
  );
  const gone = {
    ...owner,
    here: quiet(primary, twinGoneMs),
    peer: { ...silent(twinGoneMs), goneMs: twinGoneMs },
  };
  t.match(why(gone), /is gone/);
  t.equal(does({ ...gone, here: quiet(primary, twinGoneMs - 1) }), 'none', 'a checkpoint came meanwhile');
  t.equal(does({ ...gone, peer: { ...gone.peer, goneMs: 0 } }), 'none', 'its kernel answers');
  t.equal(does({ ...gone, deafUntilMs: now + 1 }), 'none');
  t.match(why({ ...owner, here: quiet(primary, stuckMs) }), /no checkpoints/);
  for (const word of ['lost', 'broken'] as const)
    t.equal(does({ ...owner, peer: { ...owner.peer, word } }), 'part', word);
  t.equal(does({ ...owner, here: { ...primary, broken: 'it closed the channel' } }), 'part');
  t.equal(does({ ...owner, ends: true }), 'part');
  t.equal(does({ ...owner, twinLeaves: true }), 'part');
  t.equal(does({ ...owner, ends: true, live: false }), 'none', 'the ledger comes first');
  t.equal(does({ ...owner, frozen: true }), 'none');
});

await t.test('what an owner says of itself', async (t) => {
  const word = (v: LockstepView): string => decideLockstep(v, now).word;
  t.equal(word(owner), 'well');
  t.equal(word({ ...owner, leaves: true }), 'yours');
  t.equal(word({ ...owner, leaves: true, own: alone }), 'well');
  t.equal(word({ ...owner, here: null }), 'lost');
  t.equal(word({ ...owner, here: null, ended: 'in-order' }), 'over');
  t.equal(word({ ...owner, frozen: true }), 'lost');
  t.equal(word({ ...owner, here: { ...primary, running: false } }), 'lost');
  t.equal(word({ ...owner, here: { ...primary, broken: 'x' } }), 'broken');
  // Its ledger is away: a twin that it hears by the storage network may reach it.
  const cannot = {
    ...owner,
    here: quiet(primary, cannotPartMs),
    peer: { ...silent(cannotPartMs), silentMs: 100 },
  };
  t.equal(word(cannot), 'lost');
  t.equal(word({ ...cannot, here: quiet(primary, cannotPartMs - 1) }), 'well', 'it is at it');
  t.equal(
    word({ ...cannot, peer: { ...cannot.peer, channelSilentMs: 100 } }),
    'well',
    'its twin is not lost',
  );
  t.equal(word({ ...second, here: null }), 'lost', 'named as twin, and nothing is there');
  t.equal(word({ ...second, here: { ...twin, broken: 'x' } }), 'broken');
  t.equal(word({ ...second, here: { ...twin, panicked: true } }), 'lost', 'its owner lets go of it');
});

await t.test('a twin goes on when its owner is lost, and not before', async (t) => {
  t.equal(does(second), 'none');
  t.equal(
    does({ ...second, peer: silent(60_000) }),
    'none',
    'checkpoints prove that it lives: its agent is dead',
  );
  const still = { ...second, here: quiet(twin, ownerQuietMs), peer: silent(ownerSilentMs) };
  t.equal(does(still), 'take');
  t.equal(does({ ...still, live: false }), 'none', 'it could not become the owner');
  t.equal(does({ ...still, deafUntilMs: now + 1 }), 'none');
  t.equal(does({ ...still, peer: { ...still.peer, silentMs: 100 } }), 'none', 'heard on the other network');
  const gone = {
    ...second,
    here: quiet(twin, ownerGoneMs),
    peer: { ...silent(ownerGoneMs), goneMs: ownerGoneMs },
  };
  t.match(why(gone), /is gone/);
  t.match(decideLockstep(gone, now).step, { do: 'take', handed: false });
  t.equal(does({ ...gone, here: quiet(twin, ownerGoneMs - 1) }), 'none', 'a checkpoint came meanwhile');
  t.equal(does({ ...gone, peer: { ...gone.peer, goneMs: ownerGoneMs - 1 } }), 'none');
  t.equal(does({ ...gone, live: false }), 'none');
  t.equal(does({ ...second, here: { ...twin, broken: 'x' } }), 'none', 'the owner lives and decides');
  t.equal(
    does({ ...second, here: { ...twin, broken: 'x' }, peer: silent(400) }),
    'take',
    'and here it does not',
  );
  for (const [word, step] of [
    ['yours', 'take'],
    ['lost', 'take'],
    ['over', 'none'],
    ['broken', 'none'],
  ] as const)
    t.equal(does({ ...second, peer: { ...second.peer, word } }), step, word);
  const yours = { ...second, peer: { ...second.peer, word: 'yours' as const } };
  t.match(decideLockstep(yours, now).step, { do: 'take', handed: true });
  t.equal(does({ ...second, here: quiet(twin, stuckForTwinMs) }), 'take');
  t.equal(does({ ...still, own: preparing }), 'none', 'it is not whole');
});

await t.test('a twin that is nobody’s ends; one that became the owner goes on', async (t) => {
  t.equal(does({ ...second, own: ownAlone(whole) }), 'end');
  t.equal(
    does({ ...second, own: ownPairing(ownAlone(whole), 'n2') }),
    'end',
    'a new one is wanted, and this is the old one',
  );
  t.equal(does({ ...second, own: ownPairing(ownAlone(whole), 'n3') }), 'end');
  t.equal(does({ ...second, own: { ...whole, state: 'stopped' } }), 'end');
  t.equal(
    does({ ...second, own: { ...alone, gen: pair - 1 } }),
    'none',
    'what was read is older than the twin',
  );
  t.equal(does({ ...second, own: preparing, here: { ...twin, broken: 'x' } }), 'end');
  const taken = ownTaken(whole, 'n2');
  t.equal(does({ ...second, own: taken }), 'take-over');
  t.equal(
    does({ ...second, own: taken, here: { ...twin, panicked: true } }),
    'end',
    'its disk is whole, it is not',
  );
  t.equal(
    does({ ...second, own: { ...taken, ...lockstepAfter(taken, true) } }),
    'end',
    'own came here otherwise',
  );
  t.equal(does({ ...second, own: { ...taken, state: 'stopped' } }), 'end');
});
