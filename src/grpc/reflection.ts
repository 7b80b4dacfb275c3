import { describeServices, type ProtoFile } from './descriptor.ts';
import { GRPC_STATUS } from './grpc-error.ts';
import { type MessageType, messageType } from './message.ts';
import type { MethodDefinition, ServiceDefinition } from './service.ts';

/** Server reflection (grpc/doc/server-reflection.md): what a client such as grpcurl needs to call a server without its .proto files. */

interface ReflectionRequest {
  readonly host: string;
  readonly fileByFilename: string | null;
  readonly fileContainingSymbol: string | null;
  readonly listServices: string | null;
}

interface FileDescriptorResponse {
  readonly fileDescriptorProto: readonly Uint8Array[];
}

interface ServiceResponse {
  readonly name: string;
}

interface ListServiceResponse {
  readonly service: readonly ServiceResponse[];
}

interface ErrorResponse {
  readonly errorCode: number;
  readonly errorMessage: string;
}

interface ReflectionResponse {
  readonly validHost: string;
  readonly originalRequest: ReflectionRequest | null;
  readonly fileDescriptorResponse: FileDescriptorResponse | null;
  readonly listServicesResponse: ListServiceResponse | null;
  readonly errorResponse: ErrorResponse | null;
}

type Answer = Pick<ReflectionResponse, 'fileDescriptorResponse' | 'listServicesResponse' | 'errorResponse'>;

const NO_ANSWER: Answer = { fileDescriptorResponse: null, listServicesResponse: null, errorResponse: null };

/** Both versions have the same messages under another name. */
export const REFLECTION_SERVICES: readonly {
  readonly service: ServiceDefinition;
  readonly method: MethodDefinition<ReflectionRequest, ReflectionResponse>;
}[] = [reflectionService('v1'), reflectionService('v1alpha')];

function reflectionService(version: 'v1' | 'v1alpha'): (typeof REFLECTION_SERVICES)[number] {
  const name = `grpc.reflection.${version}`;
  const request: MessageType<ReflectionRequest> = messageType(`${name}.ServerReflectionRequest`, {
    host: { number: 1, kind: 'string' },
    fileByFilename: { number: 3, kind: 'string', oneof: 'message_request' },
    fileContainingSymbol: { number: 4, kind: 'string', oneof: 'message_request' },
    listServices: { number: 7, kind: 'string', oneof: 'message_request' },
  });
  const file = messageType<FileDescriptorResponse>(`${name}.FileDescriptorResponse`, {
    fileDescriptorProto: { number: 1, kind: 'bytes', repeated: true },
  });
  const entry = messageType<ServiceResponse>(`${name}.ServiceResponse`, { name: { number: 1, kind: 'string' } });
  const list = messageType<ListServiceResponse>(`${name}.ListServiceResponse`, {
    service: { number: 1, kind: entry, repeated: true },
  });
  const error = messageType<ErrorResponse>(`${name}.ErrorResponse`, {
    errorCode: { number: 1, kind: 'int32' },
    errorMessage: { number: 2, kind: 'string' },
  });
  const response: MessageType<ReflectionResponse> = messageType(`${name}.ServerReflectionResponse`, {
    validHost: { number: 1, kind: 'string' },
    originalRequest: { number: 2, kind: request },
    fileDescriptorResponse: { number: 4, kind: file, oneof: 'message_response' },
    listServicesResponse: { number: 6, kind: list, oneof: 'message_response' },
    errorResponse: { number: 7, kind: error, oneof: 'message_response' },
  });
  const service = `${name}.ServerReflection`;
  const method = { path: `/${service}/ServerReflectionInfo`, kind: 'bidi', request, response } as const;
  return { method, service: { name: service, file: `grpc/reflection/${version}/reflection.proto`, methods: [method] } };
}

/** Answers questions about services. */
export class Reflection {
  readonly #services: readonly string[];
  readonly #byName: ReadonlyMap<string, ProtoFile>;
  readonly #bySymbol: ReadonlyMap<string, ProtoFile>;

  /** @throws GrpcError WEFT_GRPC_DEFINITION as describeServices() */
  constructor(services: readonly ServiceDefinition[]) {
    const files = describeServices(services);
    this.#services = services.map(({ name }) => name);
    this.#byName = new Map(files.map((file) => [file.name, file]));
    this.#bySymbol = new Map(files.flatMap((file) => file.symbols.map((symbol) => [symbol, file])));
  }

  answer(request: ReflectionRequest): ReflectionResponse {
    return { validHost: request.host, originalRequest: request, ...this.#answerTo(request) };
  }

  #answerTo({ listServices, fileByFilename, fileContainingSymbol }: ReflectionRequest): Answer {
    if (listServices !== null) {
      return { ...NO_ANSWER, listServicesResponse: { service: this.#services.map((name) => ({ name })) } };
    }
    if (fileByFilename !== null) return this.#filesFrom(this.#byName.get(fileByFilename));
    if (fileContainingSymbol !== null) return this.#filesFrom(this.#bySymbol.get(fileContainingSymbol));
    return failed(GRPC_STATUS.UNIMPLEMENTED, 'this question is not supported');
  }

  /** With all files that it needs, so that the client need not ask again. */
  #filesFrom(file: ProtoFile | undefined): Answer {
    if (file === undefined) return failed(GRPC_STATUS.NOT_FOUND, 'not found');
    const files = new Set([file]);
    // A set is gone through to its end, also while it grows.
    for (const { dependencies } of files) for (const name of dependencies) files.add(this.#byName.get(name) as ProtoFile);
    return { ...NO_ANSWER, fileDescriptorResponse: { fileDescriptorProto: Array.from(files, ({ descriptor }) => descriptor) } };
  }
}

function failed(errorCode: number, errorMessage: string): Answer {
  return { ...NO_ANSWER, errorResponse: { errorCode, errorMessage } };
}
