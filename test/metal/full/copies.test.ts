import { Scenes } from '../scenes.js';

/** A VM whose disk has a copy on each machine: power, keeper, either network. */

const s = await Scenes.open('rigcopies', { copies: true });
for (let i = 0; i < 10; i++) await s.powerLoss();
await s.storageCut();
await s.managementCut();
await s.keeperHangs();
