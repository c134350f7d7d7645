import { otherSeeds } from './scenario-seeds.js';

/** Ten of the twenty other seeds: two files, since files run side by side. */
await otherSeeds(101, 10);
