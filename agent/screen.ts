import { mkdirSync, renameSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import type { AgentConfig } from './cluster/config.js';

/** What the console of the machine shows of the node. */
export interface ScreenState {
  readonly state: 'pending' | 'member';
  readonly config: Pick<AgentConfig, 'name' | 'address' | 'ports'>;
  /** SHA-256 of its public key, hex. */
  readonly fingerprint: string;
  readonly cluster: string | null;
  readonly ok: boolean;
  /** One line: what it does, or what is wrong. */
  readonly sentence: string;
}

/** A fingerprint as people compare it: groups of four. */
export const fingerprintText = (hex: string): string => hex.replace(/(.{4})(?=.)/g, '$1 ');

/**
 * `/run/flotilla/screen`: lines of `name=value` for the console of the machine, which must not need the agent to draw. Written
 * when something changed; a failure is nobody's business.
 */
export class Screen {
  readonly #file: string;
  #last = '';

  constructor(runtimeDir: string) {
    this.#file = path.join(runtimeDir, 'screen');
  }

  show(s: ScreenState): void {
    const text = screenText(s);
    if (text === this.#last) return;
    try {
      mkdirSync(path.dirname(this.#file), { recursive: true });
      writeFileSync(`${this.#file}.new`, text, { mode: 0o644 });
      renameSync(`${this.#file}.new`, this.#file);
      this.#last = text;
    } catch {
      // The next change tries again.
    }
  }
}

/** @see Screen */
export function screenText(s: ScreenState): string {
  // Nothing from outside may move the cursor of a terminal.
  const plain = (text: string): string => text.replace(/[^\x20-\x7e]/g, '?').slice(0, 200);
  return [
    `state=${s.state}`,
    `name=${s.config.name}`,
    `address=${s.config.address}`,
    `page=https://${s.config.address}:${s.config.ports.agent}/`,
    `cluster=${plain(s.cluster ?? '')}`,
    `fingerprint=${fingerprintText(s.fingerprint)}`,
    `ok=${s.ok ? 'yes' : 'no'}`,
    `sentence=${plain(s.sentence)}`,
    '',
  ].join('\n');
}
