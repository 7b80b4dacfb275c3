import type { ConnectionAttributes } from '../../src/model/policy.ts';
import type { HeaderChange, Refusal, RequestHead } from '../../src/model/request-gate.ts';
import { HeaderDraft } from '../gate/header-draft.ts';
import { fieldValueOf, isChangeable } from '../gate/header-fields.ts';
import { AuthorisationError } from './authorisation-error.ts';
import { protobufText, type ProtobufField, ProtobufWriter, readProtobuf } from '../../src/grpc/protobuf.ts';

/** What envoy.service.auth.v3.Authorization/Check is asked and answers, as far as Weft has a use for it. */

/** Fields in one message of an answer. */
const MAX_FIELDS = 256;
const MAX_BODY_BYTES = 64 * 1024;
const OK = 0;
const DEFAULT_DENIAL = 403;

/**
 * Encodes a CheckRequest (attribute_context.proto). `headers` has one entry for each name, several fields joined as HTTP says, with the
 * pseudo-headers that Envoy puts there; `path` has the query, and `query` stays empty, as the protocol has it.
 */
export function encodeCheckRequest(head: RequestHead, connection: ConnectionAttributes, destinationPrincipal: string): Buffer {
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
  return new ProtobufWriter()
    .message(1, (attributes) =>
      attributes
        .message(1, (source) => peer(source, connection.sourceAddress, 0, connection.sourceIdentity?.text ?? ''))
        .message(2, (destination) => peer(destination, connection.destinationAddress, connection.destinationPort, destinationPrincipal))
        .message(4, (request) =>
          request.message(2, (http) => {
            http.string(1, headers.get('x-request-id') ?? '').string(2, head.method);
            for (const [name, value] of headers) http.entry(3, name, value);
            http.string(4, target).string(5, head.host).string(6, head.scheme);
          }),
        ),
    )
    .finish();
}

function peer(writer: ProtobufWriter, address: string, port: number, principal: string): void {
  writer.message(1, (outer) => outer.message(1, (socket) => socket.string(2, address).number(3, port))).string(4, principal);
}

/** A CheckResponse, read. */
export interface CheckAnswer {
  readonly allow: boolean;
  readonly change: HeaderChange | null;
  readonly refusal: Refusal | null;
}

/**
 * Decodes a CheckResponse (external_auth.proto). Status OK allows, any other denies. What says nothing at all, neither a status nor an
 * OkHttpResponse, is malformed: an empty message must not open a door.
 * @throws AuthorisationError WEFT_EXTAUTHZ_ANSWER
 */
export function decodeCheckResponse(bytes: Buffer): CheckAnswer {
  let status: Buffer | null = null;
  let denied: Buffer | null = null;
  let ok: Buffer | null = null;
  for (const each of readProtobuf(bytes, MAX_FIELDS)) {
    if (each.field === 1) status = appended(status, messageOf(each));
    else if (each.field === 2) denied = appended(denied, messageOf(each));
    else if (each.field === 3) ok = appended(ok, messageOf(each));
  }
  if (status === null && ok === null) throw new AuthorisationError('WEFT_EXTAUTHZ_ANSWER', 'the authoriser answered nothing');
  const code = status === null ? OK : numberOf(readProtobuf(status, MAX_FIELDS), 1);
  if (code === OK && denied === null) return { allow: true, change: ok === null ? null : changeOf(ok), refusal: null };
  // OK with a DeniedHttpResponse contradicts itself: denied.
  return { allow: false, change: null, refusal: denied === null ? null : refusalOf(denied) };
}

function changeOf(bytes: Buffer): HeaderChange | null {
  const draft = new HeaderDraft();
  const fields = readProtobuf(bytes, MAX_FIELDS);
  for (const each of fields) {
    if (each.field !== 5) continue;
    const name = protobufText(messageOf(each)).toLowerCase();
    if (isChangeable(name)) draft.drop(name);
  }
  for (const each of fields) {
    if (each.field !== 2) continue;
    const { name, value, append } = headerOption(messageOf(each));
    if (!isChangeable(name)) continue;
    if (append) draft.add(name, value);
    else draft.replace(name, value);
  }
  return draft.remove.length + draft.set.length === 0 ? null : draft;
}

function refusalOf(bytes: Buffer): Refusal {
  let status = DEFAULT_DENIAL;
  let body = '';
  const headers: (readonly [string, string])[] = [];
  for (const each of readProtobuf(bytes, MAX_FIELDS)) {
    if (each.field === 1) status = numberOf(readProtobuf(messageOf(each), MAX_FIELDS), 1) || DEFAULT_DENIAL;
    else if (each.field === 2) {
      const { name, value } = headerOption(messageOf(each));
      if (isChangeable(name)) headers.push([name, value]);
    } else if (each.field === 3) {
      const text = messageOf(each);
      body = text.length > MAX_BODY_BYTES ? '' : protobufText(text);
    }
  }
  return { status: finalStatus(status), headers, body };
}

/** A status that can end an exchange without being a yes; 403 for what cannot. */
export function finalStatus(status: number): number {
  return status >= 200 && status <= 599 ? status : DEFAULT_DENIAL;
}

interface HeaderOption {
  readonly name: string;
  readonly value: string;
  readonly append: boolean;
}

/** core.v3.HeaderValueOption: { header = 1 { key = 1, value = 2, raw_value = 3 }, append = 2 { value = 1 } }. */
function headerOption(bytes: Buffer): HeaderOption {
  let name = '';
  let value = '';
  let append = false;
  for (const each of readProtobuf(bytes, MAX_FIELDS)) {
    if (each.field === 2) append = numberOf(readProtobuf(messageOf(each), MAX_FIELDS), 1) !== 0;
    if (each.field !== 1) continue;
    for (const part of readProtobuf(messageOf(each), MAX_FIELDS)) {
      if (part.field === 1) name = protobufText(messageOf(part)).toLowerCase();
      else if (part.field === 2 || part.field === 3) value = headerValue(protobufText(messageOf(part)));
    }
  }
  return { name, value, append };
}

function headerValue(text: string): string {
  const value = fieldValueOf(text);
  if (value === null)
    throw new AuthorisationError('WEFT_EXTAUTHZ_ANSWER', "the authoriser's answer holds a header with control characters");
  return value;
}

function messageOf({ isBytes, bytes }: ProtobufField): Buffer {
  if (!isBytes) throw new AuthorisationError('WEFT_EXTAUTHZ_ANSWER', 'the authoriser sent a field of another type');
  return bytes;
}

/** The last number of a field, or 0, its default. */
function numberOf(fields: readonly ProtobufField[], field: number): number {
  let found = 0;
  for (const each of fields) {
    if (each.field !== field) continue;
    if (each.isBytes) throw new AuthorisationError('WEFT_EXTAUTHZ_ANSWER', 'the authoriser sent a field of another type');
    found = each.number;
  }
  return found;
}

/** A message that comes in several parts is their concatenation ("Last One Wins" of the protobuf encoding). */
function appended(before: Buffer | null, more: Buffer): Buffer {
  return before === null ? more : Buffer.concat([before, more]);
}
