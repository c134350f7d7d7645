import { errorRecord } from '../../core/domain/error.js';
import {
  fencingDeviceName,
  sameMachine,
  type BmcTest,
  type FencingDevice,
} from '../../core/domain/fencing.js';
import { epochKey, ledger as kinds, readRecord, writeRecord } from '../../core/wire/ledger-keys.js';
import { announce } from '../announce.js';
import type { AgentEnv } from '../env.js';
import type { FenceDevice } from '../fence/fence-agent.js';
import type { Kept, Snapshot } from '../snapshot.js';

/** A BMC gets so long for each question, ms: a login over IPMI takes slow ones seconds. */
const askMs = 15_000;

/** Tries fencing devices when somebody asks for it: from another node, as it would be in an emergency. */
export class BmcTests {
  private readonly env: AgentEnv;
  private readonly wake: () => void;
  private readonly running = new Map<string, AbortController>();

  constructor(env: AgentEnv, wake: () => void) {
    this.env = env;
    this.wake = wake;
  }

  stop(): void {
    for (const r of this.running.values()) r.abort();
  }

  /** Begins what is asked for and this node's to do. Never waits. */
  look(s: Snapshot): void {
    const { env } = this;
    const { fencer } = env;
    if (fencer === undefined || env.live.compare() === null) return;
    for (const [node, test] of s.bmcTests) {
      if (test.value.result !== null || this.running.has(node) || tester(s, node) !== env.node) continue;
      const abort = new AbortController();
      this.running.set(node, abort);
      void this.test(fencer, test, s, abort.signal)
        .catch((e: unknown) => {
          env.log.warn(`trying the BMC of ${node}: ${errorRecord(e).message}`);
          return env.clock.sleep(1_000);
        })
        .finally(() => {
          this.running.delete(node);
          this.wake();
        });
    }
  }

  private async test(
    fencer: FenceDevice,
    kept: Kept<BmcTest>,
    s: Snapshot,
    signal: AbortSignal,
  ): Promise<void> {
    const { ledger, live, node: by, clock } = this.env;
    const { node } = kept.value;
    const entry = await ledger.get(kinds.bmc.key(node));
    const mine = live.compare();
    if (entry === null || mine === null || s.meta === null) return;
    const device = readRecord(kinds.bmc, entry.key, entry.value);
    const said = await this.ask(fencer, device, node, signal);
    if (signal.aborted) return;
    const result = { by, atMs: clock.wallMs(), ...said, text: said.text.slice(0, 500) };
    const key = kinds.bmcTest.key(node);
    await ledger.txn(
      [
        mine,
        { key: epochKey, value: String(s.meta.value.epoch) },
        { key, modRevision: kept.modRevision },
        // What was tried is what is set.
        { key: entry.key, modRevision: entry.modRevision },
      ],
      [{ put: key, value: writeRecord(kinds.bmcTest, { ...kept.value, result }) }],
    );
    announce(this.env, said.machine === 'other' || said.power === null ? 'error' : 'info', node, said.text);
  }

  private async ask(
    fencer: FenceDevice,
    device: FencingDevice,
    node: string,
    signal: AbortSignal,
  ): Promise<Pick<NonNullable<BmcTest['result']>, 'power' | 'machine' | 'text'>> {
    const name = fencingDeviceName(device);
    const status = await fencer.status(device, { signal, deadlineMs: askMs });
    if (status.kind === 'no-answer') {
      const { message, hint } = status.error;
      return { power: null, machine: 'unknown', text: `${name} cannot be used: ${message}. ${hint}` };
    }
    const { power } = status;
    const says = `${name} takes the login and says that the power is ${power}`;
    const identity = await fencer.identify(device, { signal, deadlineMs: askMs });
    const theirs = identity.kind === 'answers' ? identity.uuid : null;
    const ours = this.env.radio.heard().find((h) => h.node === node)?.state?.facts?.uuid ?? null;
    const same = theirs === null || ours === null ? null : sameMachine(theirs, ours);
    if (same === true) return { power, machine: 'same', text: `${says}; it is the BMC of ${node}` };
    if (same === false)
      return {
        power,
        machine: 'other',
        text: `${says}, but it belongs to the machine ${theirs ?? ''}, and ${node} is ${ours ?? ''}: it is not used`,
      };
    const who =
      theirs === null
        ? 'it does not say which machine it belongs to'
        : `${node} does not say which machine it is`;
    return {
      power,
      machine: 'unknown',
      text: `${says}; ${who}: power ${node} off by it once, in maintenance, to be sure`,
    };
  }
}

/** The first other node that lives and runs VMs; where there is none the node itself. */
function tester(s: Snapshot, node: string): string | undefined {
  const able = [...s.lives.keys()].filter((n) => s.nodes.get(n)?.value.witness !== true).sort();
  return able.find((n) => n !== node) ?? able[0];
}
