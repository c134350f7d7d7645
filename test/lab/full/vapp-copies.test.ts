import { tinyShop } from '../tiny-shop.js';

await tinyShop(true);
