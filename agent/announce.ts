import type { RadioEvent } from '../core/wire/radio.js';
import type { AgentEnv } from './env.js';

/** Tells the journal and everyone who listens that something happened. */
export function announce(env: AgentEnv, level: RadioEvent['level'], subject: string, words: string): void {
  // Messages of errors name their object, too.
  const text = words.replace(`VM "${subject}": `, '');
  env.log[level === 'warning' ? 'warn' : level](`${subject}: ${text}`);
  env.radio.say('event', {
    atMs: env.clock.wallMs(),
    level,
    subject: subject.slice(0, 128),
    text: text.slice(0, 1000),
  });
}
