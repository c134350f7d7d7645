import { followClass } from '../../core/decide/service-class.js';
import { errorRecord, FlotillaError } from '../../core/domain/error.js';
import type { Op } from '../../core/domain/op.js';
import { ledger as kinds, writeRecord } from '../../core/wire/ledger-keys.js';
import type { AgentEnv } from '../env.js';
import type { Compare, Write } from '../ledger/ledger.js';
import { OpRota } from '../plan/op-rota.js';
import type { Kept, Snapshot } from '../snapshot.js';

/** Records written in one transaction: a dozen of the largest are still half of what the ledger takes at once. */
const atOnce = 12;

/** After a class was changed, has the VMs that are of it follow. Any agent can: what is left to do is in the ledger. */
export class ClassDesk {
  private readonly rota: OpRota;

  constructor(env: AgentEnv, wake: () => void) {
    this.rota = new OpRota(env, wake, {
      wants: (o) => o.kind === 'class.update',
      first: () => null,
      act: (k, s) => this.act(k, s),
    });
  }

  /** Does what is due. Never waits. @returns ms after which to look again; null: no need */
  look(s: Snapshot): number | null {
    return this.rota.look(s);
  }

  private async act(k: Kept<Op>, s: Snapshot): Promise<void> {
    const op = k.value;
    const end = (state: Op['state'], step: string, error: Op['error'] = null) =>
      this.rota.write(k, s, { ...op, state, step, error, progress: state === 'done' ? 1 : op.progress });
    if (op.cancelAsked) {
      await end('cancelled', 'the VMs not reached yet follow at the next change of the class');
      return;
    }
    const cls = s.classes.get(op.subject.id);
    if (cls === undefined) {
      const gone = new FlotillaError(
        'not-found',
        `The class "${op.subject.name}" cannot be read, or is gone`,
        {
          hint: 'See: flotilla class list.',
        },
      );
      await end('failed', op.step, errorRecord(gone));
      return;
    }
    const members = [...s.specs.values()].filter((v) => v.value.class?.id === cls.value.id);
    const lag = members.filter((v) => followClass(v.value, cls.value) !== v.value);
    if (lag.length === 0) {
      await end('done', members.length === 1 ? 'its VM follows' : `its ${members.length} VMs follow`);
      return;
    }
    const now = lag.slice(0, atOnce);
    const compare: Compare[] = [{ key: kinds.class.key(cls.value.id), modRevision: cls.modRevision }];
    const writes: Write[] = [];
    for (const v of now) {
      const key = kinds.vmSpec.key(v.value.id);
      compare.push({ key, modRevision: v.modRevision });
      writes.push({ put: key, value: writeRecord(kinds.vmSpec, followClass(v.value, cls.value)) });
    }
    const done = members.length - lag.length + now.length;
    const next: Op = {
      ...op,
      state: 'running',
      step: `${done} of ${members.length} VMs follow`,
      progress: done / members.length,
    };
    await this.rota.write(k, s, next, compare, writes);
  }
}
