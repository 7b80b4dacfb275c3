import type { JwtIdentity } from '../../src/model/policy.ts';
import { checkValues } from './text-matcher.ts';

type PartTest = (text: string) => boolean;

const present: PartTest = (text) => text.length > 0;

interface RequestPrincipal {
  readonly issuer: PartTest;
  readonly subject: PartTest;
}

/**
 * One value of requestPrincipals. The last slash parts issuer and subject, since an issuer may be a URL. Without one, `X` asks for issuer X
 * and a subject that is there and empty, `X*` for issuers that begin with X, `*X` for subjects that end with X (Istio). `*` asks for both.
 */
function parseRequestPrincipal(value: string): RequestPrincipal {
  if (value === '*') return { issuer: present, subject: present };
  const slash = value.lastIndexOf('/');
  const issuer = slash === -1 ? value : value.slice(0, slash);
  const subject = slash === -1 ? '' : value.slice(slash + 1);
  if (value.startsWith('*')) {
    if (slash === -1) return { issuer: present, subject: (text) => text.endsWith(value.slice(1)) };
    const ending = issuer.slice(1);
    return { issuer: ending === '' ? present : (text) => text.endsWith(ending), subject: (text) => text === subject };
  }
  if (value.endsWith('*')) {
    if (slash === -1) return { issuer: (text) => text.startsWith(value.slice(0, -1)), subject: present };
    const beginning = subject.slice(0, -1);
    return { issuer: (text) => text === issuer, subject: beginning === '' ? present : (text) => text.startsWith(beginning) };
  }
  return { issuer: (text) => text === issuer, subject: (text) => text === subject };
}

/** Values of requestPrincipals, and of the condition request.auth.principal. */
export class RequestPrincipalMatcher {
  /** Exact `<issuer>/<subject>` texts; a JWT's principal is the same text only if its parts are the same too. */
  readonly #exact = new Set<string>();
  readonly #others: RequestPrincipal[] = [];

  /** @throws PolicyError WEFT_POLICY_VALUE */
  constructor(field: string, values: readonly string[]) {
    checkValues(field, values);
    for (const value of values) {
      if (value.includes('*') || !value.includes('/')) this.#others.push(parseRequestPrincipal(value));
      else this.#exact.add(value);
    }
  }

  matches(jwt: JwtIdentity | null): boolean {
    // A token without a subject has no principal: it matches nothing, not even `*`.
    if (jwt === null || jwt.subject === null) return false;
    if (this.#exact.size > 0 && !jwt.subject.includes('/') && this.#exact.has(`${jwt.issuer}/${jwt.subject}`)) return true;
    for (const { issuer, subject } of this.#others) {
      if (issuer(jwt.issuer) && subject(jwt.subject)) return true;
    }
    return false;
  }
}
