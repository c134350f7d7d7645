import { otherSeeds } from './scenario-seeds.js';

/** Ten other seeds; `full/scenarios-seeds.test.ts` has ten more. */
await otherSeeds(101, 10);
