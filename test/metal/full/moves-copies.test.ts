import { moments, Scenes, times, victims } from '../scenes.js';

/**
 * A VM whose disk has a copy on each machine: the network of the copies is cut; ten migrations there and back; then each of those
 * who have a part in one dies at eight moments of it.
 */

const s = await Scenes.open('rigpair', { copies: true });
await s.storageCut();
for (let i = 0; i < times(10); i++) await s.thereAndBack();
for (const victim of victims) for (const moment of moments(8)) await s.moment(victim, moment);
