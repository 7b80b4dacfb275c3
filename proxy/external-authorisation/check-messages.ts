import type { ConnectionAttributes } from '../../src/model/policy.ts';
import type { HeaderChange, Refusal, RequestHead } from '../../src/model/request-gate.ts';
import { HeaderDraft } from '../gate/header-draft.ts';
import { fieldValueOf, isChangeable } from '../gate/header-fields.ts';
import type { DecodeLimits } from '../../src/grpc/message.ts';
import { protobufText } from '../../src/grpc/protobuf.ts';
import { AuthorisationError } from './authorisation-error.ts';
import {
  type CheckRequest,
  type CheckResponse,
  type DeniedHttpResponse,
  type HeaderValueOption,
  type OkHttpResponse,
} from './check-types.ts';

/** What envoy.service.auth.v3.Authorization/Check is asked and answers, as far as Weft has a use for it. */

/** More than any answer that makes sense: 64 KiB of body, and headers. */
export const ANSWER_LIMITS: DecodeLimits = { maxBytes: 256 * 1024, maxFields: 2_048, maxDepth: 8 };
const MAX_BODY_BYTES = 64 * 1024;
const OK = 0n;
const DEFAULT_DENIAL = 403;

/**
 * A CheckRequest (attribute_context.proto). `headers` has one entry for each name, several fields joined as HTTP says, with the
 * pseudo-headers that Envoy puts there; `path` has the query, and `query` stays empty, as the protocol has it.
 */
export function checkRequest(head: RequestHead, connection: ConnectionAttributes): CheckRequest {
  const target = head.query === '' ? head.path : `${head.path}?${head.query}`;
  const headers = new Map<string, string>([
    [':authority', head.host],
    [':method', head.method],
    [':path', target],
    [':scheme', head.scheme],
  ]);
  for (const [name, value] of head.headers()) {
    const before = headers.get(name);
    // RFC 6265 section 5.4 and RFC 9113 section 8.2.3 for cookies.
    headers.set(name, before === undefined ? value : `${before}${name === 'cookie' ? '; ' : ','}${value}`);
  }
  return {
    attributes: {
      source: peer(connection.sourceAddress, 0, connection.sourceIdentity?.text ?? ''),
      destination: peer(connection.destinationAddress, connection.destinationPort, connection.destinationIdentity ?? ''),
      request: {
        http: {
          id: headers.get('x-request-id') ?? '',
          method: head.method,
          headers,
          path: target,
          host: head.host,
          scheme: head.scheme,
        },
      },
    },
  };
}

type Peer = NonNullable<NonNullable<CheckRequest['attributes']>['source']>;

function peer(address: string, portValue: number, principal: string): Peer {
  return { address: { socketAddress: { address, portValue } }, principal };
}

/** A CheckResponse, read. */
export interface CheckAnswer {
  readonly allow: boolean;
  readonly change: HeaderChange | null;
  readonly refusal: Refusal | null;
}

/**
 * Reads a CheckResponse (external_auth.proto). Status OK allows, any other denies. What says nothing at all, neither a status nor an
 * OkHttpResponse, is malformed: an empty message must not open a door.
 * @throws AuthorisationError WEFT_EXTAUTHZ_ANSWER
 */
export function readCheckResponse({ status, deniedResponse, okResponse }: CheckResponse): CheckAnswer {
  if (status === null && okResponse === null) throw new AuthorisationError('WEFT_EXTAUTHZ_ANSWER', 'the authoriser answered nothing');
  const code = status?.code ?? OK;
  if (code === OK && deniedResponse === null) {
    return { allow: true, change: okResponse === null ? null : changeOf(okResponse), refusal: null };
  }
  // OK with a DeniedHttpResponse contradicts itself: denied.
  return { allow: false, change: null, refusal: deniedResponse === null ? null : refusalOf(deniedResponse) };
}

function changeOf({ headers, headersToRemove }: OkHttpResponse): HeaderChange | null {
  const draft = new HeaderDraft();
  for (const each of headersToRemove) {
    const name = each.toLowerCase();
    if (isChangeable(name)) draft.drop(name);
  }
  for (const option of headers) {
    const { name, value } = fieldOf(option);
    if (!isChangeable(name)) continue;
    if (option.append?.value === true) draft.add(name, value);
    else draft.replace(name, value);
  }
  return draft.remove.length + draft.set.length === 0 ? null : draft;
}

function refusalOf({ status, headers, body }: DeniedHttpResponse): Refusal {
  const kept: (readonly [string, string])[] = [];
  for (const option of headers) {
    const { name, value } = fieldOf(option);
    if (isChangeable(name)) kept.push([name, value]);
  }
  return {
    status: finalStatus(Number(status?.code ?? 0n)),
    headers: kept,
    body: body.length > MAX_BODY_BYTES ? '' : protobufText(body),
  };
}

/** A status that can end an exchange without being a yes; 403 for what cannot. */
export function finalStatus(status: number): number {
  return status >= 200 && status <= 599 ? status : DEFAULT_DENIAL;
}

/** A name in lower case, and a value that may be in a header. @throws AuthorisationError WEFT_EXTAUTHZ_ANSWER */
function fieldOf({ header }: HeaderValueOption): { readonly name: string; readonly value: string } {
  if (header === null) return { name: '', value: '' };
  const { key, value, rawValue } = header;
  const field = fieldValueOf(rawValue === null ? (value ?? '') : protobufText(rawValue));
  if (field === null) {
    throw new AuthorisationError('WEFT_EXTAUTHZ_ANSWER', "the authoriser's answer holds a header with control characters");
  }
  return { name: key.toLowerCase(), value: field };
}
