import { Scenes } from '../scenes.js';

/**
 * A VM whose disk has a copy on each machine: its owner is cut off, hangs, loses power. Copies travel over the management network
 * as long as a node cannot be told a second address, so a cut of the storage network alone would touch nothing.
 */

const s = await Scenes.open('rigcopies', { copies: true });
await s.managementCut();
await s.keeperHangs();
for (let i = 0; i < 10; i++) await s.powerLoss();
