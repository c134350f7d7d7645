import { Scenes, times } from '../scenes.js';

/** Power, again and again; both ways in which a keeper falls silent; both ways of a cable. */

const s = await Scenes.open('rigloss');
for (let i = 0; i < times(10); i++) await s.powerLoss();
await s.keeperHangs();
await s.keeperStaysDead();
await s.cut('mute');
await s.cut('deaf');
