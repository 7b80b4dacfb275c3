/** The trust domains whose identities mean the same: the mesh's own and its aliases. */
export interface TrustDomains {
  readonly trustDomain: string;
  readonly trustDomainAliases: readonly string[];
}

/** In a policy this trust domain stands for the mesh's own, whatever that is called (Istio). */
const LOCAL = 'cluster.local';
const PRINCIPAL_PARTS = 5;

function all({ trustDomain, trustDomainAliases }: TrustDomains): string[] {
  return [...new Set([trustDomain, ...trustDomainAliases])];
}

/** `*-domain` names every trust domain that ends so. */
function names(written: string, trustDomain: string): boolean {
  return written.startsWith('*') ? trustDomain.endsWith(written.slice(1)) : written === trustDomain;
}

/**
 * Principals with every trust domain that means the same. Only `<trust domain>/ns/<ns>/sa/<sa>` forms (five parts) are completed, and only if
 * their trust domain is known or is `cluster.local`; all else stays as it is.
 */
export function expandPrincipals(values: readonly string[], domains: TrustDomains): string[] {
  const known = all(domains);
  const result = new Set<string>();
  for (const value of values) {
    const slash = value.indexOf('/');
    const written = value.slice(0, Math.max(slash, 0));
    const isWorkload = value.split('/').length === PRINCIPAL_PARTS;
    if (!isWorkload || written === '*' || !(written === LOCAL || known.some((domain) => names(written, domain)))) {
      result.add(value);
      continue;
    }
    for (const domain of known) result.add(names(written, domain) ? value : domain + value.slice(slash));
  }
  return [...result];
}

/** Trust domains, with the aliases of those that are known. */
export function expandTrustDomains(values: readonly string[], domains: TrustDomains): string[] {
  const known = all(domains);
  return [...new Set(values.flatMap((value) => (known.includes(value) ? known : [value])))];
}
