import t from 'tap';
import { allHarms, lockstepDrill, type HarmName } from '../drill.js';

/** Twenty deaths of each side, and three of each other kind of trouble between: most of an hour under emulation. */

const deaths: HarmName[] = ['its node dies', 'the node of its twin dies'];

await t.test('a VM in lockstep lives on through twenty deaths of its node and twenty of its twin', (t) =>
  lockstepDrill(t, Array.from({ length: 20 }, (_, i) => (i % 7 === 0 ? allHarms : deaths)).flat()),
);
