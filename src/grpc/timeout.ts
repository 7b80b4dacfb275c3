/** The field `grpc-timeout`: at most eight digits and a unit (grpc/doc/PROTOCOL-HTTP2.md, "Timeout"). */

const UNIT_MS: Readonly<Record<string, number>> = { n: 1e-6, u: 1e-3, m: 1, S: 1_000, M: 60_000, H: 3_600_000 };
const TIMEOUT = /^([0-9]{1,8})([numSMH])$/;
const MAX_DIGITS_VALUE = 99_999_999;
/** Longer ones do not fit into a timer; 24 days are as good as none. */
export const MAX_TIMEOUT_MS: number = 2 ** 31 - 1;

/** Milliseconds, rounded up; null when it is malformed. */
export function parseTimeout(text: string): number | null {
  const [, digits, unit] = TIMEOUT.exec(text) ?? [];
  if (digits === undefined || unit === undefined) return null;
  return Math.min(Math.ceil(Number(digits) * (UNIT_MS[unit] as number)), MAX_TIMEOUT_MS);
}

export function formatTimeout(milliseconds: number): string {
  const whole = Math.max(0, Math.ceil(milliseconds));
  return whole <= MAX_DIGITS_VALUE ? `${whole}m` : `${Math.min(Math.ceil(whole / 1_000), MAX_DIGITS_VALUE)}S`;
}
