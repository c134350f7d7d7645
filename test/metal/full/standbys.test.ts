import { Scenes } from '../scenes.js';

/**
 * A VM whose disk has copies on two of three machines: they change over to another network, and another machine gets one.
 */

const s = await Scenes.open('rigstandby', { copies: true, machines: 3 });
await s.otherNetwork();
await s.otherStandby();
await s.otherStandby();
