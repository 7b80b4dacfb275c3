import type { AnyMessageType, MessageType } from './message.ts';

/** How many messages go each way: one and one, one and many, many and many. */
export type MethodKind = 'unary' | 'server-stream' | 'bidi';

/** A method, as both ends know it. */
export interface MethodDefinition<Request, Response> {
  /** `/<package>.<service>/<method>`; without the dot where there is no package: `/SpiffeWorkloadAPI/FetchX509SVID`. */
  readonly path: string;
  readonly kind: MethodKind;
  readonly request: MessageType<Request>;
  readonly response: MessageType<Response>;
}

/** A method whose messages do not matter: for lists of them. */
export interface AnyMethod {
  readonly path: string;
  readonly kind: MethodKind;
  readonly request: AnyMessageType;
  readonly response: AnyMessageType;
}

/** A service, for server reflection. */
export interface ServiceDefinition {
  /** With its package: `spiffe.broker.API`. */
  readonly name: string;
  /** The .proto file that declares it and its messages: `brokerapi.proto`. */
  readonly file: string;
  readonly methods: readonly AnyMethod[];
}
