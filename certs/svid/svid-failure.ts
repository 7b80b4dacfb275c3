import { WeftError } from '../../src/model/errors.ts';

/** Why a request for an SVID failed: the label of a counter, so a small closed set. */
export const SVID_FAILURES = [
  /** No answer in time. */
  'timeout',
  /** The provider cannot be reached. */
  'unreachable',
  /** The provider answered that it will not. */
  'refused',
  /** Not valid before a time that is ahead of our clock by more than is tolerated. */
  'clock-skew',
  /** A chain that our own trust bundle does not verify: peers would refuse it. */
  'untrusted',
  /** A certificate for another identity or key. */
  'wrong-certificate',
  'other',
] as const;
export type SvidFailure = (typeof SVID_FAILURES)[number];

/** Raised inside the manager when the provider takes too long. */
export class SvidTimeout extends Error {}

export function svidFailure(error: unknown): SvidFailure {
  if (error instanceof SvidTimeout) return 'timeout';
  if (!(error instanceof WeftError)) return 'other';
  const { code } = error;
  if (code === 'WEFT_IDENTITY_PEER_NOT_YET_VALID') return 'clock-skew';
  if (code.startsWith('WEFT_IDENTITY_PEER_')) return 'untrusted';
  if (code === 'WEFT_CERTS_ISSUED_WRONG') return 'wrong-certificate';
  if (/_(?:UNREACHABLE|UNAVAILABLE|AWAY)$/.test(code)) return 'unreachable';
  return code.startsWith('WEFT_CERTS_') ? 'refused' : 'other';
}
