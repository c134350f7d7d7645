import {
  parseTopic,
  radioPayloadBytesMax,
  radioSchemas,
  type RadioKind,
  type RadioPayload,
} from '../../core/wire/radio.js';

/** Why something that came over the radio was not believed. */
export type RadioRefusal = 'forged-topic' | 'unreadable' | 'oversized';

/** A message that was read; `body` null: a retained line was taken back. */
export type RadioMessage = {
  [K in RadioKind]: {
    readonly kind: K;
    readonly node: string;
    readonly id: string | null;
    readonly body: RadioPayload<K> | null;
  };
}[RadioKind];

const decoder = new TextDecoder('utf-8', { fatal: true });

/** Who a payload says it is from, where it says so; a line about oneself under another's name is forged. */
function names(m: RadioMessage): boolean {
  if (m.body === null) return true;
  switch (m.kind) {
    case 'state':
      return m.body.node === m.node;
    case 'vm':
      return m.body.node === m.node && m.body.vm === m.id;
    case 'op':
      return m.body.id === m.id;
    case 'beat':
    case 'event':
    case 'gone':
      return true;
  }
}

/**
 * The radio's door: turns bytes into a typed message, or says why not. Nothing behind it looks at bytes again.
 *
 * A broker is believed only about its own node, with one exception: a node's wills (`gone`) lie on its peers'
 * brokers, and there the broker's ACL has checked that only that node can have left it.
 *
 * @param from - node whose broker it came from, known by its certificate
 */
export function readMessage(
  cluster: string,
  from: string,
  topic: string,
  payload: Uint8Array,
): RadioMessage | RadioRefusal {
  const t = parseTopic(topic);
  if (t === null || t.cluster !== cluster) return 'forged-topic';
  if (t.node !== from && t.kind !== 'gone') return 'forged-topic';
  if (payload.length > radioPayloadBytesMax) return 'oversized';
  const { kind, node, id } = t;
  if (payload.length === 0) return { kind, node, id, body: null };
  let json: unknown;
  try {
    json = JSON.parse(decoder.decode(payload));
  } catch {
    return 'unreadable';
  }
  const parsed = radioSchemas[kind].safeParse(json);
  if (!parsed.success) return 'unreadable';
  const message = { kind, node, id, body: parsed.data } as RadioMessage;
  return names(message) ? message : 'forged-topic';
}
