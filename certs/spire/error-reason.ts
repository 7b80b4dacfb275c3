import { decodeMessage, type MessageType, messageType } from '../../src/grpc/message.ts';
import { type AnyMessage, ANY } from './broker-messages.ts';

interface Status {
  readonly code: number;
  readonly message: string;
  readonly details: readonly AnyMessage[];
}

interface ErrorInfo {
  readonly reason: string;
  readonly domain: string;
}

const STATUS: MessageType<Status> = messageType('google.rpc.Status', {
  code: { number: 1, kind: 'int32' },
  message: { number: 2, kind: 'string' },
  details: { number: 3, kind: ANY, repeated: true },
});

const ERROR_INFO: MessageType<ErrorInfo> = messageType('google.rpc.ErrorInfo', {
  reason: { number: 1, kind: 'string' },
  domain: { number: 2, kind: 'string' },
});

const ERROR_INFO_URL = `type.googleapis.com/${ERROR_INFO.name}`;
const DOMAIN = 'spiffe.io';

/**
 * The reason that a SPIFFE server gave for its refusal, such as `WORKLOAD_NOT_FOUND` (SPIFFE_Broker_API.md section 4.8).
 * @param details an encoded google.rpc.Status
 * @returns null when it gave none: servers need not
 */
export function spiffeReason(details: Uint8Array | null): string | null {
  if (details === null) return null;
  try {
    for (const { typeUrl, value } of decodeMessage(STATUS, details).details) {
      if (typeUrl !== ERROR_INFO_URL) continue;
      const { reason, domain } = decodeMessage(ERROR_INFO, value);
      if (domain === DOMAIN && reason !== '') return reason;
    }
  } catch {
    // The status code alone says enough: details are an extra.
  }
  return null;
}
