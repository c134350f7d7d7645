import { Scenes, victims } from '../scenes.js';

/** As moves.test.ts, of a VM whose disk has a copy on each machine; and all that such a copy can lose. */

const s = await Scenes.open('rigpair', { copies: true });
await s.storageCut();
for (let i = 0; i < 10; i++) await s.thereAndBack();
for (const victim of victims) for (let i = 0; i < 8; i++) await s.moment(victim, i * 800);
