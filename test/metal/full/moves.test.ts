import { moments, Scenes, times, victims } from '../scenes.js';

/**
 * As moves-copies.test.ts, of a VM on shared storage. There is less to lose, so less often: three times there and back, and each
 * of those who have a part in a migration dies at two moments of it.
 */

const s = await Scenes.open('rigmove');
for (let i = 0; i < times(3); i++) await s.thereAndBack();
for (const victim of victims) for (const moment of moments(2)) await s.moment(victim, moment);
