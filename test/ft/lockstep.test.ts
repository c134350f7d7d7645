import t from 'tap';
import { lockstepDrill } from './drill.js';

/** Whole nodes die under a VM in lockstep; 20 of each are in `full`. */

await t.test('a VM in lockstep lives on through two deaths of its node and two of its twin', (t) =>
  lockstepDrill(t, 2),
);
