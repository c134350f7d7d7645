import { tinyShop } from './tiny-shop.js';

/** Up, and up again after a node was lost; `full/vapp-copies.test.ts` has the rest. */
await tinyShop(false);
