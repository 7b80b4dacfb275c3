import { CertsError } from '../errors.ts';
import type { SpiffeBundle } from './trust-state.ts';

/**
 * Refuses a bundle that cannot follow the one that is held (SPIFFE_Trust_Domain_and_Bundle.md section 4.1.1): a lower sequence is an old bundle that
 * somebody shows again, and one sequence stands for one content. Where either has no sequence, the one that was fetched last counts
 * (SPIFFE_Federation.md section 4.2).
 * @throws CertsError WEFT_CERTS_BUNDLE_SEQUENCE
 */
export function checkSuccession(held: SpiffeBundle, next: SpiffeBundle): void {
  if (held.sequence === null || next.sequence === null) return;
  if (next.sequence < held.sequence) throw outOfOrder(`its sequence went back from ${held.sequence} to ${next.sequence}`);
  if (next.sequence === held.sequence && !haveSameKeys(held, next)) {
    throw outOfOrder(`its keys are others than before, under the same sequence ${next.sequence}`);
  }
}

/** True when both trust the same keys, in whatever order. */
export function haveSameKeys(left: SpiffeBundle, right: SpiffeBundle): boolean {
  const [these, those] = [keysOf(left), keysOf(right)];
  return these.size === those.size && [...these].every((key) => those.has(key));
}

function keysOf({ x509Authorities, jwtAuthorities }: SpiffeBundle): Set<string> {
  return new Set([
    ...x509Authorities.map((der) => Buffer.from(der).toString('base64')),
    ...jwtAuthorities.map(({ keyId, jwk }) => JSON.stringify([keyId, jwk.kty, jwk.crv, jwk.x, jwk.y, jwk.n, jwk.e])),
  ]);
}

function outOfOrder(why: string): CertsError {
  return new CertsError('WEFT_CERTS_BUNDLE_SEQUENCE', `the bundle is refused, and the one before it stays: ${why}`, {
    nextStep: 'ask who publishes it; if its sequence was reset on purpose, write its new bundle into trustDomainBundle',
  });
}
