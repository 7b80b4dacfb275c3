import { type MessageType, messageType } from '../../src/grpc/message.ts';
import type { MethodDefinition } from '../../src/grpc/service.ts';

/**
 * The messages of envoy.service.auth.v3 (attribute_context.proto, external_auth.proto), with the fields that Weft has a use for; others are
 * skipped. Numbers of a status are read as 64 bits, wider than the schema has them: what does not fit must stay a denial.
 */

interface SocketAddress {
  readonly address: string;
  readonly portValue: number;
}

interface Address {
  readonly socketAddress: SocketAddress | null;
}

interface Peer {
  readonly address: Address | null;
  readonly principal: string;
}

interface HttpRequest {
  readonly id: string;
  readonly method: string;
  readonly headers: ReadonlyMap<string, string>;
  readonly path: string;
  readonly host: string;
  readonly scheme: string;
}

interface AttributeRequest {
  readonly http: HttpRequest | null;
}

interface AttributeContext {
  readonly source: Peer | null;
  readonly destination: Peer | null;
  readonly request: AttributeRequest | null;
}

export interface CheckRequest {
  readonly attributes: AttributeContext | null;
}

interface HeaderValue {
  readonly key: string;
  readonly value: string | null;
  readonly rawValue: Uint8Array | null;
}

interface BoolValue {
  readonly value: boolean;
}

export interface HeaderValueOption {
  readonly header: HeaderValue | null;
  readonly append: BoolValue | null;
}

interface StatusCode {
  readonly code: bigint;
}

export interface DeniedHttpResponse {
  readonly status: StatusCode | null;
  readonly headers: readonly HeaderValueOption[];
  readonly body: Uint8Array;
}

export interface OkHttpResponse {
  readonly headers: readonly HeaderValueOption[];
  readonly headersToRemove: readonly string[];
}

export interface CheckResponse {
  readonly status: StatusCode | null;
  readonly deniedResponse: DeniedHttpResponse | null;
  readonly okResponse: OkHttpResponse | null;
}

const SOCKET_ADDRESS: MessageType<SocketAddress> = messageType('envoy.config.core.v3.SocketAddress', {
  address: { number: 2, kind: 'string' },
  portValue: { number: 3, kind: 'uint32' },
});

const ADDRESS: MessageType<Address> = messageType('envoy.config.core.v3.Address', {
  socketAddress: { number: 1, kind: SOCKET_ADDRESS },
});

const PEER: MessageType<Peer> = messageType('envoy.service.auth.v3.AttributeContext.Peer', {
  address: { number: 1, kind: ADDRESS },
  principal: { number: 4, kind: 'string' },
});

const HTTP_REQUEST: MessageType<HttpRequest> = messageType('envoy.service.auth.v3.AttributeContext.HttpRequest', {
  id: { number: 1, kind: 'string' },
  method: { number: 2, kind: 'string' },
  headers: { number: 3, kind: 'string', map: true },
  path: { number: 4, kind: 'string' },
  host: { number: 5, kind: 'string' },
  scheme: { number: 6, kind: 'string' },
});

const ATTRIBUTE_REQUEST: MessageType<AttributeRequest> = messageType('envoy.service.auth.v3.AttributeContext.Request', {
  http: { number: 2, kind: HTTP_REQUEST },
});

const ATTRIBUTE_CONTEXT: MessageType<AttributeContext> = messageType('envoy.service.auth.v3.AttributeContext', {
  source: { number: 1, kind: PEER },
  destination: { number: 2, kind: PEER },
  request: { number: 4, kind: ATTRIBUTE_REQUEST },
});

const CHECK_REQUEST: MessageType<CheckRequest> = messageType('envoy.service.auth.v3.CheckRequest', {
  attributes: { number: 1, kind: ATTRIBUTE_CONTEXT },
});

const HEADER_VALUE: MessageType<HeaderValue> = messageType('envoy.config.core.v3.HeaderValue', {
  key: { number: 1, kind: 'string' },
  // Only one of the two may be there, and the last one counts.
  value: { number: 2, kind: 'string', oneof: 'either' },
  rawValue: { number: 3, kind: 'bytes', oneof: 'either' },
});

const BOOL_VALUE: MessageType<BoolValue> = messageType('google.protobuf.BoolValue', { value: { number: 1, kind: 'bool' } });

const HEADER_VALUE_OPTION: MessageType<HeaderValueOption> = messageType('envoy.config.core.v3.HeaderValueOption', {
  header: { number: 1, kind: HEADER_VALUE },
  append: { number: 2, kind: BOOL_VALUE },
});

const HTTP_STATUS: MessageType<StatusCode> = messageType('envoy.type.v3.HttpStatus', { code: { number: 1, kind: 'int64' } });

const RPC_STATUS: MessageType<StatusCode> = messageType('google.rpc.Status', { code: { number: 1, kind: 'int64' } });

const DENIED_HTTP_RESPONSE: MessageType<DeniedHttpResponse> = messageType('envoy.service.auth.v3.DeniedHttpResponse', {
  status: { number: 1, kind: HTTP_STATUS },
  headers: { number: 2, kind: HEADER_VALUE_OPTION, repeated: true },
  // A string of the schema; as bytes, one that is too long need not be read.
  body: { number: 3, kind: 'bytes' },
});

const OK_HTTP_RESPONSE: MessageType<OkHttpResponse> = messageType('envoy.service.auth.v3.OkHttpResponse', {
  headers: { number: 2, kind: HEADER_VALUE_OPTION, repeated: true },
  headersToRemove: { number: 5, kind: 'string', repeated: true },
});

const CHECK_RESPONSE: MessageType<CheckResponse> = messageType('envoy.service.auth.v3.CheckResponse', {
  status: { number: 1, kind: RPC_STATUS },
  deniedResponse: { number: 2, kind: DENIED_HTTP_RESPONSE },
  okResponse: { number: 3, kind: OK_HTTP_RESPONSE },
});

export const CHECK: MethodDefinition<CheckRequest, CheckResponse> = {
  path: '/envoy.service.auth.v3.Authorization/Check',
  kind: 'unary',
  request: CHECK_REQUEST,
  response: CHECK_RESPONSE,
};
