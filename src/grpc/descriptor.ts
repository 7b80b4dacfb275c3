import { GrpcError } from './grpc-error.ts';
import { type AnyMessageType, encodeMessage, type EnumType, type MessageType, messageType } from './message.ts';
import type { Field, FieldKind } from './message-type.ts';
import type { AnyMethod, ServiceDefinition } from './service.ts';

/**
 * google/protobuf/descriptor.proto, as much as services need: .proto files as messages, derived from the tables. Its fields are proto2's
 * and have presence, which is kept where a zero is a value.
 */

interface FieldDescriptor {
  readonly name: string;
  readonly number: number;
  readonly label: number;
  readonly type: number;
  readonly typeName: string;
  readonly oneofIndex: number | null;
  readonly proto3Optional: boolean;
}

interface Named {
  readonly name: string;
}

interface MapOptions {
  readonly mapEntry: boolean;
}

interface MessageDescriptor {
  readonly name: string;
  readonly fields: readonly FieldDescriptor[];
  readonly nested: readonly MessageDescriptor[];
  readonly options: MapOptions | null;
  readonly oneofs: readonly Named[];
}

interface EnumValueDescriptor {
  readonly name: string;
  readonly number: number | null;
}

interface EnumDescriptor {
  readonly name: string;
  readonly values: readonly EnumValueDescriptor[];
}

interface MethodDescriptor {
  readonly name: string;
  readonly inputType: string;
  readonly outputType: string;
  readonly clientStreaming: boolean;
  readonly serverStreaming: boolean;
}

interface ServiceDescriptor {
  readonly name: string;
  readonly methods: readonly MethodDescriptor[];
}

interface FileDescriptor {
  readonly name: string;
  readonly package: string;
  readonly dependencies: readonly string[];
  readonly messages: readonly MessageDescriptor[];
  readonly enums: readonly EnumDescriptor[];
  readonly services: readonly ServiceDescriptor[];
  readonly syntax: string;
}

const FIELD: MessageType<FieldDescriptor> = messageType('google.protobuf.FieldDescriptorProto', {
  name: { number: 1, kind: 'string' },
  number: { number: 3, kind: 'int32' },
  label: { number: 4, kind: 'int32' },
  type: { number: 5, kind: 'int32' },
  typeName: { number: 6, kind: 'string' },
  oneofIndex: { number: 9, kind: 'int32', optional: true },
  proto3Optional: { number: 17, kind: 'bool' },
});
const ONEOF: MessageType<Named> = messageType('google.protobuf.OneofDescriptorProto', { name: { number: 1, kind: 'string' } });
const MAP_OPTIONS: MessageType<MapOptions> = messageType('google.protobuf.MessageOptions', { mapEntry: { number: 7, kind: 'bool' } });
const MESSAGE: MessageType<MessageDescriptor> = messageType('google.protobuf.DescriptorProto', () => ({
  name: { number: 1, kind: 'string' },
  fields: { number: 2, kind: FIELD, repeated: true },
  nested: { number: 3, kind: MESSAGE, repeated: true },
  options: { number: 7, kind: MAP_OPTIONS },
  oneofs: { number: 8, kind: ONEOF, repeated: true },
}));
const ENUM_VALUE: MessageType<EnumValueDescriptor> = messageType('google.protobuf.EnumValueDescriptorProto', {
  name: { number: 1, kind: 'string' },
  number: { number: 2, kind: 'int32', optional: true },
});
const ENUM: MessageType<EnumDescriptor> = messageType('google.protobuf.EnumDescriptorProto', {
  name: { number: 1, kind: 'string' },
  values: { number: 2, kind: ENUM_VALUE, repeated: true },
});
const METHOD: MessageType<MethodDescriptor> = messageType('google.protobuf.MethodDescriptorProto', {
  name: { number: 1, kind: 'string' },
  inputType: { number: 2, kind: 'string' },
  outputType: { number: 3, kind: 'string' },
  clientStreaming: { number: 5, kind: 'bool' },
  serverStreaming: { number: 6, kind: 'bool' },
});
const SERVICE: MessageType<ServiceDescriptor> = messageType('google.protobuf.ServiceDescriptorProto', {
  name: { number: 1, kind: 'string' },
  methods: { number: 2, kind: METHOD, repeated: true },
});
const FILE: MessageType<FileDescriptor> = messageType('google.protobuf.FileDescriptorProto', {
  name: { number: 1, kind: 'string' },
  package: { number: 2, kind: 'string' },
  dependencies: { number: 3, kind: 'string', repeated: true },
  messages: { number: 4, kind: MESSAGE, repeated: true },
  enums: { number: 5, kind: ENUM, repeated: true },
  services: { number: 6, kind: SERVICE, repeated: true },
  syntax: { number: 12, kind: 'string' },
});

/** FieldDescriptorProto.Label and .Type. */
const LABEL_OPTIONAL = 1;
const LABEL_REPEATED = 3;
const TYPE_MESSAGE = 11;
const TYPE_ENUM = 14;
const SCALAR_TYPES = { double: 1, int64: 3, uint64: 4, int32: 5, bool: 8, string: 9, bytes: 12, uint32: 13 } as const;

/** A .proto file, encoded as a FileDescriptorProto, and what it declares. */
export interface ProtoFile {
  readonly name: string;
  readonly dependencies: readonly string[];
  readonly descriptor: Uint8Array;
  /** Full names of services, methods, messages and enumerations. */
  readonly symbols: readonly string[];
}

interface Draft {
  readonly name: string;
  readonly package: string;
  readonly dependencies: Set<string>;
  readonly types: Map<string, AnyMessageType | EnumType>;
  readonly services: ServiceDefinition[];
}

/**
 * The files of these services and of all types that they use. A type whose table names no file is declared in that of the first service
 * which uses it.
 * @throws GrpcError WEFT_GRPC_DEFINITION when a type is in another package than its file, or two types have one name
 */
export function describeServices(services: readonly ServiceDefinition[]): readonly ProtoFile[] {
  const drafts = new Map<string, Draft>();
  const fileOf = new Map<AnyMessageType | EnumType, Draft>();

  const draftOf = (name: string, packageName: string): Draft => {
    const draft = drafts.get(name) ?? { name, package: packageName, dependencies: new Set(), types: new Map(), services: [] };
    if (draft.package !== packageName) throw inconsistent(`${name} would have the packages ${draft.package} and ${packageName}`);
    drafts.set(name, draft);
    return draft;
  };
  const place = (type: AnyMessageType | EnumType, user: Draft): void => {
    const known = fileOf.get(type);
    const draft = known ?? draftOf(type.file ?? user.name, packageOf(type.name));
    if (draft !== user) user.dependencies.add(draft.name);
    if (known !== undefined) return;
    if (draft.types.has(type.name)) throw inconsistent(`${type.name} is declared twice`);
    draft.types.set(type.name, type);
    fileOf.set(type, draft);
    if (type.type === 'enum') return;
    for (const { kind } of type.fields.values()) if (typeof kind !== 'string') place(kind, draft);
  };
  for (const service of services) {
    const draft = draftOf(service.file, packageOf(service.name));
    draft.services.push(service);
    for (const { request, response } of service.methods) {
      place(request, draft);
      place(response, draft);
    }
  }
  return Array.from(drafts.values(), fileFrom);
}

function fileFrom(draft: Draft): ProtoFile {
  const types = [...draft.types.values()];
  const descriptor = encodeMessage(FILE, {
    name: draft.name,
    package: draft.package,
    dependencies: [...draft.dependencies],
    messages: types.filter((type) => type.type === 'message').map(describeMessage),
    enums: types.filter((type) => type.type === 'enum').map(describeEnum),
    services: draft.services.map(({ name, methods }) => ({ name: simpleName(name), methods: methods.map(describeMethod) })),
    syntax: 'proto3',
  });
  const methods = draft.services.flatMap(({ name, methods }) => methods.map(({ path }) => `${name}.${methodName(path)}`));
  const symbols = [...draft.types.keys(), ...draft.services.map(({ name }) => name), ...methods];
  return { name: draft.name, dependencies: [...draft.dependencies], descriptor, symbols };
}

function describeMessage({ name, fields }: AnyMessageType): MessageDescriptor {
  const all = [...fields.values()];
  const oneofs = [...new Set(all.flatMap(({ oneof }) => (oneof === null ? [] : [oneof])))];
  // Optional fields are oneofs of one member, which come after the others (protobuf's implementing_proto3_presence.md).
  const optional = all.filter(isOptional);
  const oneofIndex = (field: Field): number | null => {
    if (field.oneof !== null) return oneofs.indexOf(field.oneof);
    return isOptional(field) ? oneofs.length + optional.indexOf(field) : null;
  };
  return {
    name: simpleName(name),
    fields: all.map((field) => ({
      name: field.name,
      number: field.number,
      label: field.presence === 'repeated' || field.presence === 'map' ? LABEL_REPEATED : LABEL_OPTIONAL,
      ...(field.presence === 'map' ? { type: TYPE_MESSAGE, typeName: `.${name}.${entryName(field)}` } : describeKind(field.kind)),
      oneofIndex: oneofIndex(field),
      proto3Optional: isOptional(field),
    })),
    nested: all.filter(({ presence }) => presence === 'map').map(describeEntry),
    options: null,
    oneofs: [...oneofs.map((oneof) => ({ name: oneof })), ...optional.map((field) => ({ name: `_${field.name}` }))],
  };
}

function isOptional({ presence, oneof, kind }: Field): boolean {
  return presence === 'optional' && oneof === null && (typeof kind === 'string' || kind.type === 'enum');
}

/** A map<string, V> is a list of messages of a type that protoc makes for it (protobuf language guide, "Maps"). */
function describeEntry(field: Field): MessageDescriptor {
  const single = { label: LABEL_OPTIONAL, oneofIndex: null, proto3Optional: false };
  return {
    name: entryName(field),
    fields: [
      { ...single, name: 'key', number: 1, ...describeKind('string') },
      { ...single, name: 'value', number: 2, ...describeKind(field.kind) },
    ],
    nested: [],
    options: { mapEntry: true },
    oneofs: [],
  };
}

function entryName({ name }: Field): string {
  const words = name.split('_').map((word) => `${word.slice(0, 1).toUpperCase()}${word.slice(1)}`);
  return `${words.join('')}Entry`;
}

function describeKind(kind: FieldKind): { readonly type: number; readonly typeName: string } {
  if (typeof kind === 'string') return { type: SCALAR_TYPES[kind], typeName: '' };
  return { type: kind.type === 'enum' ? TYPE_ENUM : TYPE_MESSAGE, typeName: `.${kind.name}` };
}

function describeEnum({ name, values }: EnumType): EnumDescriptor {
  return { name: simpleName(name), values: Object.entries(values).map(([each, number]) => ({ name: each, number })) };
}

function describeMethod({ path, kind, request, response }: AnyMethod): MethodDescriptor {
  return {
    name: methodName(path),
    inputType: `.${request.name}`,
    outputType: `.${response.name}`,
    clientStreaming: kind === 'bidi',
    serverStreaming: kind !== 'unary',
  };
}

function methodName(path: string): string {
  return path.slice(path.lastIndexOf('/') + 1);
}

function simpleName(name: string): string {
  return name.slice(name.lastIndexOf('.') + 1);
}

function packageOf(name: string): string {
  return name.slice(0, Math.max(name.lastIndexOf('.'), 0));
}

function inconsistent(what: string): GrpcError {
  return new GrpcError('WEFT_GRPC_DEFINITION', what);
}
