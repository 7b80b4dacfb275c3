import { holdsType, RPC_STATUS, unpackAny } from '../../src/grpc/any.ts';
import { decodeMessage, type MessageType, messageType } from '../../src/grpc/message.ts';

interface ErrorInfo {
  readonly reason: string;
  readonly domain: string;
}

const ERROR_INFO: MessageType<ErrorInfo> = messageType('google.rpc.ErrorInfo', {
  reason: { number: 1, kind: 'string' },
  domain: { number: 2, kind: 'string' },
});

const DOMAIN = 'spiffe.io';

/**
 * The reason that a SPIFFE server gave for its refusal, such as `WORKLOAD_NOT_FOUND` (SPIFFE_Broker_API.md section 4.8).
 * @param details an encoded google.rpc.Status
 * @returns null when it gave none: servers need not
 */
export function spiffeReason(details: Uint8Array | null): string | null {
  if (details === null) return null;
  try {
    for (const detail of decodeMessage(RPC_STATUS, details).details) {
      if (!holdsType(detail, ERROR_INFO)) continue;
      const { reason, domain } = unpackAny(ERROR_INFO, detail);
      if (domain === DOMAIN && reason !== '') return reason;
    }
  } catch {
    // The status code alone says enough: details are an extra.
  }
  return null;
}
