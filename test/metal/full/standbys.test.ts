import { Scenes } from '../scenes.js';

/**
 * A VM whose disk has copies on two of three machines: another machine gets one, and they change over to another network.
 */

const s = await Scenes.open('rigstandby', { copies: true, machines: 3 });
await s.otherStandby();
await s.otherStandby();
await s.otherNetwork();
