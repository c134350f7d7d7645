import { Scenes, times } from '../scenes.js';

/**
 * A VM on shared storage: power, again and again (ten times where a disk has copies: copies.test.ts); both ways in which a keeper
 * falls silent; both ways of a cable.
 */

const s = await Scenes.open('rigloss');
for (let i = 0; i < times(3); i++) await s.powerLoss();
await s.keeperHangs();
await s.keeperStaysDead();
await s.cut('mute');
await s.cut('deaf');
