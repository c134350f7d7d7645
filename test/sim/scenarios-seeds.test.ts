import { otherSeeds } from './scenario-seeds.js';

/** Five other seeds; `full/scenarios-seeds.test.ts` has fifteen more. */
await otherSeeds(101, 5);
