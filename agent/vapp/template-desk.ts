import { decideTemplate } from '../../core/decide/vapp.js';
import { errorRecord, FlotillaError } from '../../core/domain/error.js';
import type { Op } from '../../core/domain/op.js';
import type { Template } from '../../core/domain/template.js';
import { ledger as kinds, unique, writeRecord } from '../../core/wire/ledger-keys.js';
import { announce } from '../announce.js';
import type { AgentEnv } from '../env.js';
import type { Compare, Write } from '../ledger/ledger.js';
import { OpRota, sameOp } from '../plan/op-rota.js';
import type { Kept, Snapshot } from '../snapshot.js';
import { askSnapshot } from './member-snapshots.js';
import { memberView } from './member-view.js';

/** Makes templates: has their data snapshotted. Any agent can. */
export class TemplateDesk {
  private readonly env: AgentEnv;
  private readonly rota: OpRota;

  constructor(env: AgentEnv, wake: () => void) {
    this.env = env;
    this.rota = new OpRota(env, wake, {
      wants: (o) => o.kind === 'template.create',
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
    const kept = s.templates.get(op.subject.id);
    if (kept === undefined) {
      const error = new FlotillaError(
        'not-found',
        `Template "${op.subject.name}" is gone, or cannot be read`,
        {
          hint: 'See: flotilla template list.',
        },
      );
      await this.rota.write(k, s, { ...op, state: 'failed', error: errorRecord(error) });
      return;
    }
    const template = kept.value;
    const d = decideTemplate(template.begins, op, memberView(this.env, op, s));
    const compare: Compare[] = [{ key: kinds.template.key(template.id), modRevision: kept.modRevision }];
    const writes: Write[] = [];
    let end = d.end;
    if (end === null) {
      try {
        for (const from of d.ask) askSnapshot(this.env, from, op, s, compare, writes, template.id);
      } catch (e) {
        if (!(e instanceof FlotillaError)) throw e;
        compare.splice(1);
        writes.splice(0);
        end = { state: 'failed', error: errorRecord(e) };
      }
    }
    if (end?.state === 'done')
      writes.push({
        put: kinds.template.key(template.id),
        value: writeRecord(kinds.template, { ...template, state: 'ready' }),
      });
    else if (end !== null) takeBack(template, s, compare, writes);
    const next: Op = {
      ...op,
      state: end === null ? 'running' : end.state,
      step: d.step.slice(0, 200),
      progress: d.progress,
      error: end?.state === 'failed' ? end.error : null,
    };
    if (writes.length === 0 && sameOp(op, next)) return;
    const done = await this.rota.write(k, s, next, compare, writes);
    if (done && end !== null)
      announce(
        this.env,
        end.state === 'failed' ? 'warning' : 'info',
        template.name,
        end.state === 'failed'
          ? end.error.message
          : `the template is ${end.state === 'done' ? 'ready' : 'not made'}`,
      );
  }
}

function takeBack(template: Template, s: Snapshot, compare: Compare[], writes: Write[]): void {
  writes.push({ del: kinds.template.key(template.id) }, { del: unique.name('template', template.name) });
  for (const { from } of template.begins) {
    const kept = s.vmSnapshots.get(from.snapshot);
    if (kept === undefined) continue;
    const key = kinds.vmSnapshot.key(from.snapshot);
    compare.push({ key, modRevision: kept.modRevision });
    writes.push({ put: key, value: writeRecord(kinds.vmSnapshot, { ...kept.value, state: 'deleting' }) });
  }
}
