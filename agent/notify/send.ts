import type { Mail, NotifySettings } from '../../core/domain/notify.js';

/** A mail server or receiver that says nothing for so long is given up, ms. */
const answerMs = 15_000;

export interface Message {
  readonly subject: string;
  readonly text: string;
  /** For programs: beside the text in what a webhook gets. */
  readonly data: unknown;
}

export type Way = keyof NotifySettings;

/** Sends one message by every way that is set. @returns what went wrong by which, in words without secrets */
export async function send(s: NotifySettings, m: Message): Promise<Partial<Record<Way, string>>> {
  const faults: Partial<Record<Way, string>> = {};
  const by = async (way: Way, name: string, sent: Promise<void>): Promise<void> => {
    await sent.catch((e: unknown) => (faults[way] = `${name}: ${faultOf(e, s)}`));
  };
  await Promise.all([
    s.mail === null ? null : by('mail', `mail by ${s.mail.host}`, mail(s.mail, m)),
    s.webhook === null ? null : by('webhook', `webhook at ${new URL(s.webhook).host}`, post(s.webhook, m)),
  ]);
  return faults;
}

async function mail(s: Mail, m: Message): Promise<void> {
  // Loaded by who sends: most agents never do.
  const { createTransport } = await import('nodemailer');
  const transport = createTransport({
    host: s.host,
    port: s.port,
    secure: s.security === 'tls',
    requireTLS: s.security === 'starttls',
    ignoreTLS: s.security === 'none',
    connectionTimeout: answerMs,
    greetingTimeout: answerMs,
    socketTimeout: answerMs,
    // Texts come from guests and files: nothing in them is a path or an address to fetch.
    disableFileAccess: true,
    disableUrlAccess: true,
    ...(s.user === null ? {} : { auth: { user: s.user, pass: s.password ?? '' } }),
  });
  try {
    await transport.sendMail({ from: s.from, to: s.to, subject: m.subject, text: m.text });
  } finally {
    transport.close();
  }
}

async function post(url: string, m: Message): Promise<void> {
  const res = await fetch(url, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ text: `${m.subject}\n${m.text}`, subject: m.subject, ...(m.data as object) }),
    // Where it leads is where it was set to.
    redirect: 'error',
    signal: AbortSignal.timeout(answerMs),
  });
  await res.body?.cancel();
  if (!res.ok) throw new Error(`it answered with status ${res.status}`);
}

/** The words of libraries may repeat what they were given. */
function faultOf(error: unknown, s: NotifySettings): string {
  const cause = error instanceof Error && error.cause instanceof Error ? `: ${error.cause.message}` : '';
  let text = `${error instanceof Error ? error.message : String(error)}${cause}`;
  for (const secret of [s.mail?.password, s.webhook])
    if (secret !== null && secret !== undefined) text = text.replaceAll(secret, '…');
  return text.replace(/\s+/g, ' ').slice(0, 200);
}
