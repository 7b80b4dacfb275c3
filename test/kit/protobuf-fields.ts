import { type ProtobufField, ProtobufReader } from '../../src/grpc/protobuf.ts';

/** The fields of a message in order, by their numbers alone: to look at what was written without its table. */
export function protobufFields(bytes: Uint8Array): ProtobufField[] {
  const fields: ProtobufField[] = [];
  for (const reader = new ProtobufReader(bytes); !reader.atEnd; ) fields.push(reader.field());
  return fields;
}
