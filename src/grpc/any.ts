import { GrpcError } from './grpc-error.ts';
import { decodeMessage, encodeMessage, type MessageType, messageType } from './message.ts';

/** google.protobuf.Any: a message of a type that is named beside it. */
export interface Any {
  /** Ends in `/` and the full name: `type.googleapis.com/spiffe.broker.WorkloadPIDReference`. */
  readonly typeUrl: string;
  readonly value: Uint8Array;
}

export const ANY: MessageType<Any> = messageType(
  'google.protobuf.Any',
  { typeUrl: { number: 1, kind: 'string' }, value: { number: 2, kind: 'bytes' } },
  'google/protobuf/any.proto',
);

const PREFIX = 'type.googleapis.com/';

export function packAny<Message>(type: MessageType<Message>, message: NoInfer<Message>): Any {
  return { typeUrl: `${PREFIX}${type.name}`, value: encodeMessage(type, message) };
}

/** True when it says that it holds this type. */
export function holdsType(any: Any, type: { readonly name: string }): boolean {
  return any.typeUrl.slice(any.typeUrl.lastIndexOf('/') + 1) === type.name && any.typeUrl.includes('/');
}

/** @throws GrpcError WEFT_GRPC_MALFORMED when it holds another type, or is malformed */
export function unpackAny<Message>(type: MessageType<Message>, any: Any): Message {
  if (!holdsType(any, type)) throw new GrpcError('WEFT_GRPC_MALFORMED', `an Any that is no ${type.name}`);
  return decodeMessage(type, any.value);
}

/** google.rpc.Status, which travels as the details of a GrpcStatusError. */
export interface RpcStatus {
  readonly code: number;
  readonly message: string;
  readonly details: readonly Any[];
}

export const RPC_STATUS: MessageType<RpcStatus> = messageType(
  'google.rpc.Status',
  {
    code: { number: 1, kind: 'int32' },
    message: { number: 2, kind: 'string' },
    details: { number: 3, kind: ANY, repeated: true },
  },
  'google/rpc/status.proto',
);
