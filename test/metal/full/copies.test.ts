import { Scenes, times } from '../scenes.js';

/**
 * A VM whose disk has a copy on each machine: its owner is cut off, hangs, loses power.
 */

const s = await Scenes.open('rigcopies', { copies: true });
await s.managementCut();
await s.keeperHangs();
for (let i = 0; i < times(10); i++) await s.powerLoss();
