import { encodeGrpcMessage, grpcStatusOfHttp } from '../../src/grpc/wire-status.ts';
import type { Decision } from '../../src/model/policy.ts';
import type { Refusal } from '../../src/model/request-gate.ts';
import { isFieldValue, isFreeFieldName } from '../http1/header-change.ts';
import { refusalStatus } from '../http1/local-response.ts';
import { grpcAnswerType } from './grpc.ts';
import { withoutOuterSpace } from '../../src/transport/http2/message.ts';
import { HTTP2_REFUSAL_STATUS, type Http2RefusalReason } from './refusal.ts';

/** An answer that Weft gives in the application's place. */
export interface LocalAnswer {
  /** HTTP's; 200 for gRPC. */
  readonly status: number;
  /** null when the request is not gRPC. */
  readonly grpcStatus: number | null;
  /** The whole head, `:status` first. */
  readonly fields: string[];
  /** Empty for gRPC: the answer is trailers only. */
  readonly body: Buffer;
}

const NO_BODY = Buffer.alloc(0);
/** What names the refusal where no policy did: nothing allowed the request. */
const NO_POLICY = 'no-policy-allows';
const DENIED_BY = 'x-weft-denied-by';
const DENIED_STATUS = 403;
/** They end with their head whatever else is said. */
const BODILESS: ReadonlySet<number> = new Set([204, 205, 304]);

/** Names come from validated resources; this makes sure that none breaks a field value. */
function printable(text: string): string {
  return text.replaceAll(/[^\x20-\x7e]/g, '?').trim();
}

/**
 * @param grpcType the request's content-type if it is gRPC, else null
 * @param extra fields to add, valid ones only
 */
function answer(status: number, text: string, grpcType: string | null, extra: readonly string[]): LocalAnswer {
  if (grpcType !== null) {
    const grpcStatus = grpcStatusOfHttp(status);
    const fields = [':status', '200', 'content-type', grpcAnswerType(grpcType), 'grpc-status', String(grpcStatus)];
    if (text !== '') fields.push('grpc-message', encodeGrpcMessage(text.trimEnd()));
    fields.push(...extra);
    return { status: 200, grpcStatus, fields, body: NO_BODY };
  }
  const isBodiless = BODILESS.has(status);
  const body = isBodiless ? NO_BODY : Buffer.from(text, 'utf8');
  const fields = [':status', String(status)];
  if (!isBodiless) fields.push('content-length', String(body.length));
  if (body.length > 0 && !extra.includes('content-type')) fields.push('content-type', 'text/plain');
  fields.push(...extra);
  return { status, grpcStatus: null, fields, body };
}

/** The answer to a request that was refused for anything but policy. */
export function refusalAnswer(reason: Http2RefusalReason, detail: string | null, grpcType: string | null): LocalAnswer {
  const extra = HTTP2_REFUSAL_STATUS[reason] === 405 ? ['allow', 'GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS'] : [];
  return answer(HTTP2_REFUSAL_STATUS[reason], `weft: ${reason}${detail === null ? '' : ` (${printable(detail)})`}\n`, grpcType, extra);
}

/** The fields of a gate's refusal that may go out: those that cannot, and those that are ours to set, are left out. */
function refusalFields(refusal: Refusal, isGrpc: boolean): string[] {
  const fields: string[] = [];
  for (const [written, text] of refusal.headers) {
    const name = written.toLowerCase();
    if (!isFreeFieldName(name) || !isFieldValue(text) || name === DENIED_BY) continue;
    if (isGrpc && (name === 'content-type' || name.startsWith('grpc-'))) continue;
    fields.push(name, withoutOuterSpace(text));
  }
  return fields;
}

/**
 * The answer to a request that the gate refused: 403, or PERMISSION_DENIED in trailers-only form, unless the gate says otherwise. The policy
 * is named in the text, and in `x-weft-denied-by` if `withHeader`.
 */
export function deniedAnswer(decision: Decision, refusal: Refusal | null, grpcType: string | null, withHeader: boolean): LocalAnswer {
  const policy = decision.policy === null ? null : printable(decision.policy);
  const by = policy === null ? '' : ` by policy ${policy}`;
  const words = `weft: request denied${by} (${printable(decision.reason)})\n`;
  const extra = refusal === null ? [] : refusalFields(refusal, grpcType !== null);
  if (withHeader) extra.push(DENIED_BY, policy ?? NO_POLICY);
  if (refusal === null) return answer(DENIED_STATUS, words, grpcType, extra);
  // A gRPC client sees no body: without one the message would name nothing.
  const text = grpcType !== null && refusal.body === '' ? words : refusal.body;
  return answer(refusalStatus(refusal), text, grpcType, extra);
}
