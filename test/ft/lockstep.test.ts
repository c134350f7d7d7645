import t from 'tap';
import { lockstepDrill } from './drill.js';

/** Whole nodes die under a VM in lockstep; 20 of each, and all that may happen else, are in `full`. */

await t.test('a VM in lockstep lives on through two deaths of its node and two of its twin', (t) =>
  lockstepDrill(t, [
    'its node dies',
    'the node of its twin dies',
    'its node dies',
    'the node of its twin dies',
  ]),
);
