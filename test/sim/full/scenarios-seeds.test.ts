import { otherSeeds } from '../scenario-seeds.js';

await otherSeeds(201, 10);
