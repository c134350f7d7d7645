import { moments, Scenes, times, victims } from '../scenes.js';

/** As moves.test.ts, of a VM whose disk has a copy on each machine; and all that such a copy can lose. */

const s = await Scenes.open('rigpair', { copies: true });
await s.storageCut();
for (let i = 0; i < times(10); i++) await s.thereAndBack();
for (const victim of victims) for (const ms of moments()) await s.moment(victim, ms);
