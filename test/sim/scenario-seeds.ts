import t from 'tap';
import { runScenario, scenarios } from './scenario.js';

/** Each scenario with seeds of its own: times and order differ, its promises and its end do not. */
export async function otherSeeds(from: number, count: number): Promise<void> {
  for (const { name, variants } of scenarios(process.argv.slice(2))) {
    const bad: string[] = [];
    for (let i = 0; i < count; i++) {
      const v = variants[i % variants.length];
      if (v === undefined) throw new Error(`${name} has no variant`);
      const { faults } = await runScenario(v.scenario, from + i);
      if (faults.length > 0) bad.push(`seed ${from + i}${v.name}: ${faults.join('; ')}`);
    }
    t.same(bad, [], `${name}: seeds from ${from}`);
  }
}
