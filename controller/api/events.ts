import { eventKinds, type EventKind } from '../../core/wire/rest.js';
import { FlotillaError } from '../../core/domain/error.js';
import type { StreamEvent } from '../event-log.js';
import type { View } from '../view.js';

/** Streams at a time: each is a connection and a cursor. */
const readersMax = 256;
/** A line that keeps proxies and readers awake, and finds dead connections, ms. */
const heartbeatMs = 15_000;
/** Text handed to a connection at once, characters. */
const batchChars = 256 * 1024;

/** The kinds asked for by `?kinds=vm,op`; nothing: all. @throws FlotillaError `bad-input` */
export function kindsOf(text: string | undefined): ReadonlySet<EventKind> {
  const names = text === undefined || text === '' ? eventKinds : text.split(',').map((k) => k.trim());
  const unknown = names.filter((n) => !eventKinds.includes(n as EventKind));
  if (unknown.length > 0) {
    throw new FlotillaError(
      'bad-input',
      `There are no events of kind ${unknown.slice(0, 3).join(', ').slice(0, 80)}`,
      {
        hint: `There are: ${eventKinds.join(', ')}.`,
      },
    );
  }
  return new Set(names as EventKind[]);
}

/**
 * The event stream of one reader. After a resumable id it goes on without a gap; otherwise, and whenever the reader
 * was too slow for the buffer, it gets a `snapshot` of everything first. It is pulled: a slow reader queues nothing.
 *
 * @throws FlotillaError `rate-limited`: too many readers
 */
export function eventStream(
  view: View,
  o: {
    lastEventId: string | undefined;
    kinds: ReadonlySet<EventKind>;
    /** The whole cluster, for the snapshot. */
    readonly cluster: () => string;
  },
): ReadableStream<Uint8Array> {
  const { events } = view;
  if (events.readers >= readersMax) {
    throw new FlotillaError('rate-limited', `${readersMax} readers follow the events already`, {
      hint: 'Close some pages, or ask another controller.',
    });
  }
  view.freshness();
  const text = new TextEncoder();
  let cursor = events.cursor(o.lastEventId);
  let wake: (() => void) | null = null;
  const off = events.onPush(() => wake?.());
  let heart: NodeJS.Timeout | null = null;
  const wanted = (e: StreamEvent): boolean => o.kinds.has(e.kind.replace(/-gone$/, '') as EventKind);

  const next = (): string => {
    view.fold();
    const pending = cursor === null ? null : events.after(cursor);
    if (pending === null) {
      cursor = events.lastSeq;
      return eventText(events.idOf(cursor), 'snapshot', snapshotText(view, o.kinds, o.cluster));
    }
    let out = '';
    for (const e of pending) {
      cursor = e.seq;
      if (wanted(e)) out += eventText(events.idOf(e.seq), e.kind, e.data);
      if (out.length > batchChars) break;
    }
    return out;
  };

  return new ReadableStream<Uint8Array>(
    {
      start(controller) {
        controller.enqueue(text.encode('retry: 1000\n\n'));
      },
      async pull(controller) {
        for (;;) {
          if (events.closed) {
            off();
            controller.close();
            return;
          }
          const out = next();
          if (out !== '') {
            controller.enqueue(text.encode(out));
            return;
          }
          const why = await new Promise<'push' | 'heart'>((resolve) => {
            wake = () => resolve('push');
            heart = setTimeout(() => resolve('heart'), heartbeatMs);
            heart.unref();
          });
          wake = null;
          if (heart !== null) clearTimeout(heart);
          if (why === 'heart') {
            controller.enqueue(text.encode(': here\n\n'));
            return;
          }
        }
      },
      cancel() {
        off();
        if (heart !== null) clearTimeout(heart);
        wake?.();
      },
    },
    { highWaterMark: 1 },
  );
}

const eventText = (id: string, kind: string, data: string): string =>
  `id: ${id}\nevent: ${kind}\ndata: ${data}\n\n`;

function snapshotText(view: View, kinds: ReadonlySet<EventKind>, cluster: () => string): string {
  const parts: string[] = [];
  if (kinds.has('cluster')) parts.push(`"cluster":${cluster()}`);
  for (const kind of ['node', 'vm', 'image', 'pool', 'network', 'op', 'vapp'] as const) {
    if (!kinds.has(kind)) continue;
    const items = (view.list(kind) as readonly { readonly json: string }[]).map((c) => c.json);
    parts.push(`"${kind}s":[${items.join(',')}]`);
  }
  return `{${parts.join(',')}}`;
}
