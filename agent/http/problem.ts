import { errorRecord, errorStatus } from '../../core/domain/error.js';
import type { Problem } from '../../core/wire/rest.js';

/** Anything thrown, as RFC 9457 has it, with our code, hint and causes. */
export function problemBody(error: unknown): Problem {
  const known = errorRecord(error);
  // What a defect says is for the journal, not for whoever asked.
  const r =
    known.code === 'internal' ? { ...known, message: 'The node failed at this request', causes: [] } : known;
  return {
    type: `about:blank#${r.code}`,
    title: r.code,
    status: errorStatus[r.code],
    detail: r.message,
    code: r.code,
    message: r.message,
    hint: r.hint,
    causes: [...r.causes],
    ...(r.details === undefined ? {} : { details: r.details }),
  };
}

/** The error as an answer: `application/problem+json`, never cached. */
export function problemResponse(error: unknown, headers: Readonly<Record<string, string>> = {}): Response {
  const body = problemBody(error);
  return new Response(JSON.stringify(body), {
    status: body.status,
    headers: {
      'content-type': 'application/problem+json; charset=utf-8',
      'cache-control': 'no-store',
      ...(body.status === 401 ? { 'www-authenticate': 'Bearer realm="flotilla"' } : {}),
      ...headers,
    },
  });
}
