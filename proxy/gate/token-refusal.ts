import type { Decision } from '../../src/model/policy.ts';
import type { GateAnswer } from '../../src/model/request-gate.ts';
import type { TokenFailure, TokenFailureReason } from '../jwt/token-verifier.ts';

/** What the client is told, and the log. Nothing of the token is repeated. */
const PHRASES: Readonly<Record<TokenFailureReason, string>> = {
  malformed: 'the token is malformed',
  'too-large': 'the token is too large',
  'several-tokens': 'the request holds several tokens',
  algorithm: 'the algorithm of the token is not accepted',
  'critical-header': 'the token has a header that is not understood',
  issuer: 'the issuer of the token is not accepted here',
  audience: 'the token is for another audience',
  expired: 'the token has expired',
  'not-yet-valid': 'the token is not valid yet',
  claims: 'a claim of the token is malformed',
  'unknown-key': 'the issuer has no such key',
  'keys-unavailable': 'the keys of the issuer are not available',
  signature: 'the signature of the token is wrong',
};

const MAX_KNOWN = 4096;
const known = new Map<string, GateAnswer>();

/** The answer to a request whose token is no good: 401 with a challenge (RFC 6750 section 3), and a decision that names the RequestAuthentication. */
export function tokenRefusal({ failure, authentication }: TokenFailure): GateAnswer {
  const key = `${failure} ${authentication ?? ''}`;
  let answer = known.get(key);
  if (answer === undefined) {
    const reason = PHRASES[failure];
    const decision: Decision = Object.freeze({ verdict: 'deny', policy: authentication, rule: null, reason });
    answer = Object.freeze({
      decision,
      refusal: {
        status: 401,
        headers: [
          ['www-authenticate', `Bearer realm="weft", error="invalid_token", error_description="${reason}"`],
          ['content-type', 'text/plain'],
        ] as const,
        body: `${reason}\n`,
      },
      change: null,
      shadow: [],
    });
    if (known.size >= MAX_KNOWN) known.clear();
    known.set(key, answer);
  }
  return answer;
}
