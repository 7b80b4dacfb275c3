const UNITS: Readonly<Record<string, number>> = { ms: 1, s: 1000, m: 60_000, h: 3_600_000 };

/** A duration as Kubernetes and Istio write it (`500ms`, `0.5s`, `1m`), in whole milliseconds, rounded up. Null when it is not one. */
export function readDuration(text: string): number | null {
  const match = /^(\d{1,9}(?:\.\d{1,9})?)(ms|s|m|h)$/.exec(text);
  if (match === null) return null;
  const [, number = '', unit = ''] = match;
  return Math.ceil(Number(number) * (UNITS[unit] ?? 0));
}
