import { beatEveryMs, type PeerHeard } from '../../core/decide/lockstep.js';
import type { LockstepAnswers, LockstepWord } from '../../core/wire/lockstep.js';
import type { AgentEnv } from '../env.js';
import { within } from './within.js';

/** A beat without an answer is given up after this, ms: the next one may get through. */
const beatTimeoutMs = 600;
/** A node that was not heard for so long, a little more than beats are apart, is knocked at with each look, on each network, ms. */
const knockAfterMs = beatEveryMs + 20;
/** A knock without an answer is in vain after this, ms. */
const knockMs = 120;
/** So many knocks in vain since it was heard last, and the silence counts. */
const knocksInVain = 2;
/** Addresses of a node that are asked: the management network and the one for storage. */
const networksMax = 2;

export interface Word {
  readonly vm: string;
  readonly word: LockstepWord;
}

interface Ear {
  readonly sinceMs: number;
  /** By network: when it was heard of last there. */
  readonly heardMs: Map<number, number>;
  word: LockstepWord | null;
}

/** A whole node: when anything of it answered last, and how often it was knocked at in vain since. */
interface Door {
  lifeMs: number;
  inVain: number;
}

/**
 * Whether the other node of a pair lives, as its agent says itself: the twin's node asks the owner's, on each network, five
 * times a second; each hears of the other so. Where nothing is heard, its kernel is asked. Says nothing of who may go on.
 */
export class Beats {
  private readonly env: AgentEnv;
  private readonly words: (peer: string) => readonly Word[];
  private readonly wake: () => void;
  private readonly ears = new Map<string, Ear>();
  private readonly doors = new Map<string, Door>();
  private readonly asking = new Map<string, AbortController>();

  /** @param words - what this node says now of the machines that it shares with that node */
  constructor(env: AgentEnv, words: (peer: string) => readonly Word[], wake: () => void) {
    this.env = env;
    this.words = words;
    this.wake = wake;
  }

  /** Asks these nodes from now on, and no others. Never waits. */
  ask(peers: ReadonlyMap<string, readonly string[]>): void {
    const wanted = new Set<string>();
    for (const [node, addresses] of peers)
      addresses.slice(0, networksMax).forEach((address, via) => {
        const key = `${node} ${address}`;
        wanted.add(key);
        if (this.asking.has(key)) return;
        const end = new AbortController();
        this.asking.set(key, end);
        void this.loop({ node, address }, via, end.signal);
      });
    for (const [key, end] of this.asking)
      if (!wanted.has(key)) {
        this.asking.delete(key);
        end.abort();
      }
  }

  /** A beat of that node has come. @returns what it is told */
  heard(node: string, via: number, words: readonly Word[]): LockstepAnswers['beat'] {
    this.note(node, via, words);
    return { words: [...this.words(node)] };
  }

  /** What is known of the other side of a pair; from the first question on it is listened for. */
  of(node: string, vm: string, nowMs: number): PeerHeard {
    const ear = this.ear(node, vm, nowMs);
    const age = (ms: number | undefined): number => nowMs - (ms ?? ear.sinceMs);
    const last = Math.max(ear.sinceMs, ...ear.heardMs.values());
    const door = this.doors.get(node);
    const goneMs =
      door === undefined || door.inVain < knocksInVain ? 0 : age(Math.max(ear.sinceMs, door.lifeMs));
    return { silentMs: age(last), channelSilentMs: age(ear.heardMs.get(0)), goneMs, word: ear.word };
  }

  /** Knocks at those of these nodes that have not been heard for a moment. Never waits. */
  knock(nodes: ReadonlyMap<string, readonly string[]>): void {
    const { clock, peers } = this.env;
    const now = clock.nowMs();
    for (const node of this.doors.keys()) if (!nodes.has(node)) this.doors.delete(node);
    for (const [node, addresses] of nodes) {
      const door = this.doors.get(node) ?? { lifeMs: now, inVain: 0 };
      this.doors.set(node, door);
      if (now - door.lifeMs < knockAfterMs) continue;
      void Promise.all(
        addresses
          .slice(0, networksMax)
          .map((address) => within(clock, knockMs, (signal) => peers.knock({ node, address }, signal))),
      ).then((answered) => {
        if (answered.some(Boolean)) this.lives(node);
        else if (door.lifeMs < now) door.inVain++;
      });
    }
  }

  private lives(node: string): void {
    const door = this.doors.get(node);
    if (door !== undefined) Object.assign(door, { lifeMs: this.env.clock.nowMs(), inVain: 0 });
  }

  /** That pair is over, or another one begins. */
  forget(vm: string): void {
    for (const key of this.ears.keys()) if (key.endsWith(` ${vm}`)) this.ears.delete(key);
  }

  stop(): void {
    this.ask(new Map());
  }

  private ear(node: string, vm: string, nowMs: number): Ear {
    const key = `${node} ${vm}`;
    const known = this.ears.get(key);
    if (known !== undefined) return known;
    const ear: Ear = { sinceMs: nowMs, heardMs: new Map(), word: null };
    this.ears.set(key, ear);
    return ear;
  }

  private note(node: string, via: number, words: readonly Word[]): void {
    const now = this.env.clock.nowMs();
    this.lives(node);
    let news = false;
    for (const { vm, word } of words) {
      // Only of pairs that are listened for: what others say cannot fill the memory.
      const ear = this.ears.get(`${node} ${vm}`);
      if (ear === undefined) continue;
      ear.heardMs.set(via, now);
      news ||= ear.word !== word;
      ear.word = word;
    }
    if (news) this.wake();
  }

  private async loop(
    to: { readonly node: string; readonly address: string },
    via: number,
    end: AbortSignal,
  ): Promise<void> {
    const { clock, peers } = this.env;
    while (!end.aborted) {
      const beganMs = clock.nowMs();
      const words = [...this.words(to.node)];
      try {
        const answer = await within(clock, beatTimeoutMs, (signal) =>
          peers.lockstep(to, { do: 'beat', via, words }, signal),
        );
        this.note(to.node, via, answer.words);
      } catch {
        // Silence says it.
      }
      const restMs = beganMs + beatEveryMs - clock.nowMs();
      if (!end.aborted) await clock.sleep(Math.max(restMs, 1), end).catch(() => undefined);
    }
  }
}
