import type { Decision } from '../../src/model/policy.ts';
import type { Refusal } from '../../src/model/request-gate.ts';
import { isFieldValue, isFreeFieldName } from './header-change.ts';
import { REFUSAL_STATUS, type RefusalReason } from './refusal.ts';

const REASON_PHRASE: Readonly<Record<number, string>> = {
  400: 'Bad Request',
  401: 'Unauthorized',
  403: 'Forbidden',
  404: 'Not Found',
  405: 'Method Not Allowed',
  408: 'Request Timeout',
  414: 'URI Too Long',
  429: 'Too Many Requests',
  431: 'Request Header Fields Too Large',
  500: 'Internal Server Error',
  502: 'Bad Gateway',
  503: 'Service Unavailable',
  504: 'Gateway Timeout',
  505: 'HTTP Version Not Supported',
};

const TEXT = 'content-type: text/plain\r\n';
/** Statuses whose answers have no body (RFC 9110 sections 15.3.5, 15.3.6 and 15.4.5). */
const BODILESS: ReadonlySet<number> = new Set([204, 205, 304]);

/**
 * @param fields whole lines, one code unit per byte
 * @param body sent as UTF-8
 */
function response(status: number, fields: string, body: string, close: boolean, toHead: boolean): Buffer {
  const isBodiless = BODILESS.has(status);
  const bodyBytes = Buffer.byteLength(body);
  // 204 and 304 end with their head whatever else is said; a length of 205 is 0.
  const length = isBodiless ? (status === 205 ? 'content-length: 0\r\n' : '') : `content-length: ${bodyBytes}\r\n`;
  const line = `HTTP/1.1 ${status} ${REASON_PHRASE[status] ?? 'Refused'}\r\n`;
  const head = `${line}${fields}${length}${close ? 'connection: close\r\n' : ''}\r\n`;
  if (toHead || isBodiless) return Buffer.from(head, 'latin1');
  if (bodyBytes === body.length) return Buffer.from(head + body, 'latin1');
  return Buffer.concat([Buffer.from(head, 'latin1'), Buffer.from(body)]);
}

/** The whole answer to a request that was refused for anything but policy. It ends the connection. */
export function refusalResponse(reason: RefusalReason, toHead: boolean): Buffer {
  const status = REFUSAL_STATUS[reason];
  const fields = status === 405 ? 'allow: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS\r\n' : '';
  return response(status, `${TEXT}${fields}`, `weft: ${reason}\n`, true, toHead);
}

/** What names the refusal where no policy did: nothing allowed the request. */
const NO_POLICY = 'no-policy-allows';
const DENIED_BY = 'x-weft-denied-by';

/**
 * The whole answer to a request that policy denied. The policy is named in the body, and in `x-weft-denied-by` if `withHeader`.
 */
export function deniedResponse(decision: Decision, withHeader: boolean, close: boolean, toHead: boolean): Buffer {
  const policy = decision.policy === null ? null : printable(decision.policy);
  const by = policy === null ? '' : ` by policy ${policy}`;
  const body = `weft: request denied${by} (${printable(decision.reason)})\n`;
  return response(403, `${TEXT}${deniedByField(decision, withHeader)}`, body, close, toHead);
}

function deniedByField(decision: Decision, withHeader: boolean): string {
  return withHeader ? `${DENIED_BY}: ${decision.policy === null ? NO_POLICY : printable(decision.policy)}\r\n` : '';
}

/** The status that a gate's refusal is answered with: its own where that is a final answer, else 403. */
export function refusalStatus(refusal: Refusal): number {
  return Number.isInteger(refusal.status) && refusal.status >= 200 && refusal.status <= 599 ? refusal.status : 403;
}

/**
 * The whole answer where the gate has its own words. Its text may come from an external authoriser: fields that frame or belong to the
 * connection, and those that are not valid, are left out.
 */
export function gateResponse(refusal: Refusal, decision: Decision, withHeader: boolean, close: boolean, toHead: boolean): Buffer {
  const { body } = refusal;
  let fields = '';
  let hasType = body === '';
  for (const [written, value] of refusal.headers) {
    const name = written.toLowerCase();
    if (!isFreeFieldName(name) || !isFieldValue(value) || name === DENIED_BY) continue;
    if (name === 'content-type') hasType = true;
    fields += `${name}: ${value}\r\n`;
  }
  return response(refusalStatus(refusal), `${hasType ? '' : TEXT}${fields}${deniedByField(decision, withHeader)}`, body, close, toHead);
}

/** Names come from validated resources; this makes sure that none can ever end a header line. */
function printable(text: string): string {
  return text.replaceAll(/[^\x20-\x7e]/g, '?');
}
