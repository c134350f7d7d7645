import t from 'tap';
import { lockstepDrill } from '../drill.js';

/** Twenty deaths of each side: hours under emulation. */

await t.test('a VM in lockstep lives on through twenty deaths of its node and twenty of its twin', (t) =>
  lockstepDrill(t, 20),
);
