import type { RefusalReason } from '../../src/model/authority-api.ts';

/** What the issuance service counts, since the process started. */
export class IssuanceCounts {
  joins = 0;
  readonly refused: Record<RefusalReason, number> = { unauthenticated: 0, not_allowed: 0, rate_limited: 0, malformed: 0, failed: 0 };
}
