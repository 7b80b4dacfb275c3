import type { Decision } from '../../src/model/policy.ts';
import { REFUSAL_STATUS, type RefusalReason } from './refusal.ts';

const REASON_PHRASE: Readonly<Record<number, string>> = {
  400: 'Bad Request',
  403: 'Forbidden',
  405: 'Method Not Allowed',
  408: 'Request Timeout',
  414: 'URI Too Long',
  431: 'Request Header Fields Too Large',
  502: 'Bad Gateway',
  503: 'Service Unavailable',
  505: 'HTTP Version Not Supported',
};

function response(status: number, fields: string, body: string, close: boolean, toHead: boolean): Buffer {
  const head = `HTTP/1.1 ${status} ${REASON_PHRASE[status] ?? 'Refused'}\r\ncontent-type: text/plain\r\ncontent-length: ${body.length}\r\n`;
  return Buffer.from(`${head}${fields}${close ? 'connection: close\r\n' : ''}\r\n${toHead ? '' : body}`, 'latin1');
}

/** The whole answer to a request that was refused for anything but policy. It ends the connection. */
export function refusalResponse(reason: RefusalReason, toHead: boolean): Buffer {
  const status = REFUSAL_STATUS[reason];
  const fields = status === 405 ? 'allow: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS, TRACE\r\n' : '';
  return response(status, fields, `weft: ${reason}\n`, true, toHead);
}

/** What names the refusal where no policy did: nothing allowed the request. */
const NO_POLICY = 'no-policy-allows';

/**
 * The whole answer to a request that policy denied. The policy is named in the body, and in `x-weft-denied-by` if `withHeader`.
 */
export function deniedResponse(decision: Decision, withHeader: boolean, close: boolean, toHead: boolean): Buffer {
  const policy = decision.policy === null ? null : printable(decision.policy);
  const by = policy === null ? '' : ` by policy ${policy}`;
  const body = `weft: request denied${by} (${printable(decision.reason)})\n`;
  return response(403, withHeader ? `x-weft-denied-by: ${policy ?? NO_POLICY}\r\n` : '', body, close, toHead);
}

/** Names come from validated resources; this makes sure that none can ever end a header line. */
function printable(text: string): string {
  return text.replaceAll(/[^\x20-\x7e]/g, '?');
}
