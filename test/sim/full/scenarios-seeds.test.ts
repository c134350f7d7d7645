import { otherSeeds } from '../scenario-seeds.js';

await otherSeeds(106, 15);
