import t from 'tap';
import { aims } from '../cluster/schedule.js';
import { runSchedules } from '../cluster/run.js';

/** A second round over all pairs of transition and fault, after the one of `schedules.test.ts`. */
const s = await runSchedules({ first: 1_000_000 + aims.length, count: aims.length, nodes: 0 });
t.equal(s.schedules, aims.length);
t.same(s.failures, [], 'no promise is broken');
