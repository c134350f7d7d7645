import t from 'tap';
import { drawnFrom, moments, Scenes, victims } from './scenes.js';

/**
 * A cluster on emulated machines loses power, cables and keepers; its VM is watched from outside. What the lab's containers
 * cannot show: watchdogs that reset a machine, and kernels that boot again.
 */

const seed = Number(process.env['METAL_SEED'] ?? Math.floor(Math.random() * 1e6));
t.comment(`METAL_SEED=${seed}`);
const drawn = drawnFrom(seed);
const one = <T>(of: readonly T[]): T => of[Math.floor(drawn() * of.length)] as T;
const s = await Scenes.open('rigdrill');

await s.thereAndBack();
await s.keeperHangs();
for (let round = 1; round <= 3; round++) await s.moment(one(victims), one(moments(8)));
await s.cut('mute');
await s.cut('deaf');
await s.powerLoss();
