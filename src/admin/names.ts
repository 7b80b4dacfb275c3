const DNS_NAME = /^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$/;
const LABEL = /^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$/;

/** The name of a resource or a node, as Kubernetes has them: at most 253 characters. */
export function isName(value: unknown): value is string {
  return typeof value === 'string' && DNS_NAME.test(value);
}

/** The name of a namespace: an RFC 1123 label. */
export function isLabel(value: unknown): value is string {
  return typeof value === 'string' && LABEL.test(value);
}
