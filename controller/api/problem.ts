import { HTTPException } from 'hono/http-exception';
import { errorRecord, errorStatus, FlotillaError, type ErrorRecord } from '../../core/domain/error.js';
import type { Problem } from '../../core/wire/rest.js';

/** Anything thrown, as an answer by RFC 9457 with our code, hint and causes beside its own fields. */
export function problem(error: unknown): { status: number; body: Problem } {
  const r = record(error);
  const status = errorStatus[r.code];
  return {
    status,
    body: {
      type: `about:blank#${r.code}`,
      title: r.code,
      status,
      detail: r.message,
      code: r.code,
      message: r.message,
      hint: r.hint,
      causes: [...r.causes],
      ...(r.details === undefined ? {} : { details: r.details }),
    },
  };
}

export function problemResponse(error: unknown): Response {
  const { status, body } = problem(error);
  return new Response(JSON.stringify(body), {
    status,
    headers: {
      'content-type': 'application/problem+json; charset=utf-8',
      'cache-control': 'no-store',
      ...(status === 401 ? { 'www-authenticate': 'Bearer realm="flotilla"' } : {}),
    },
  });
}

function record(error: unknown): ErrorRecord {
  if (!(error instanceof HTTPException)) {
    const r = errorRecord(error);
    // Whatever an unexpected error says is for the log, not for whoever asked.
    return r.code === 'internal' ? { ...r, message: 'The controller failed at this request', causes: [] } : r;
  }
  const hint = 'Send JSON with content-type application/json; see /api/v1/openapi.json.';
  const text = error.message === '' ? `status ${error.status}` : error.message;
  return errorRecord(new FlotillaError('bad-input', `The request was refused: ${text}`, { hint }));
}
