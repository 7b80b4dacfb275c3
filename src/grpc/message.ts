/** Protobuf messages: how a type is declared (see MessageType), written and read. */
export { type AnyMessageType, type EnumType, enumType, type FieldTable, type MessageType, messageType } from './message-type.ts';
export { type DecodeLimits, DEFAULT_DECODE_LIMITS, decodeMessage } from './decode-message.ts';
export { encodeMessage } from './encode-message.ts';
