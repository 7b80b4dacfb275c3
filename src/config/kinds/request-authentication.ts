import type { JwtRule, RequestAuthenticationResource } from '../../model/resources.ts';
import type { FieldPath } from '../config-problem.ts';
import { quote } from '../config-problem.ts';
import { refusedJwksUri, refusedKeySet } from '../jwks-source.ts';
import type { Draft } from './draft.ts';
import { selectorOf } from './draft.ts';

interface WrittenRule {
  readonly issuer: string;
  readonly audiences?: readonly string[];
  readonly jwks?: string;
  readonly jwksUri?: string;
  readonly jwks_uri?: string;
  readonly fromHeaders?: readonly { readonly name: string; readonly prefix?: string }[];
  readonly fromParams?: readonly string[];
  readonly fromCookies?: readonly string[];
  readonly forwardOriginalToken?: boolean;
  readonly outputPayloadToHeader?: string;
  readonly outputClaimToHeaders?: readonly { readonly header: string; readonly claim: string }[];
}

/** Headers by which the next hop frames, routes or connects. */
const FRAMING: ReadonlySet<string> = new Set([
  'connection',
  'content-length',
  'expect',
  'host',
  'keep-alive',
  'proxy-connection',
  'te',
  'trailer',
  'transfer-encoding',
  'upgrade',
]);

/** RequestAuthentication to the model. */
export function toRequestAuthentication(draft: Draft): RequestAuthenticationResource {
  const rules = (draft.spec['jwtRules'] ?? []) as readonly WrittenRule[];
  return {
    kind: 'RequestAuthentication',
    metadata: draft.metadata,
    location: draft.location,
    spec: { selector: selectorOf(draft), jwtRules: rules.map((rule, index) => toRule(draft, rule, ['spec', 'jwtRules', index])) },
  };
}

function toRule(draft: Draft, written: WrittenRule, at: FieldPath): JwtRule {
  const { outputPayloadToHeader = null } = written;
  if (outputPayloadToHeader !== null) output(draft, outputPayloadToHeader, [...at, 'outputPayloadToHeader']);
  const claims = written.outputClaimToHeaders ?? [];
  const names = new Set<string>();
  for (const [index, { header }] of claims.entries()) {
    const path = [...at, 'outputClaimToHeaders', index, 'header'];
    output(draft, header, path);
    if (names.has(header.toLowerCase())) draft.fail(path, `${quote(header)} is in the list already`, 'use one header for each claim');
    names.add(header.toLowerCase());
  }
  return {
    issuer: written.issuer,
    audiences: written.audiences ?? [],
    ...keysOf(draft, written, at),
    fromHeaders: (written.fromHeaders ?? []).map(({ name, prefix = '' }) => ({ name: name.toLowerCase(), prefix })),
    fromParams: written.fromParams ?? [],
    fromCookies: written.fromCookies ?? [],
    forwardOriginalToken: written.forwardOriginalToken ?? false,
    outputPayloadToHeader: outputPayloadToHeader?.toLowerCase() ?? null,
    outputClaimToHeaders: claims.map(({ header, claim }) => ({ header: header.toLowerCase(), claim })),
  };
}

function keysOf(draft: Draft, written: WrittenRule, at: FieldPath): { jwks: string | null; jwksUri: string | null } {
  const { jwks = null } = written;
  const field = written.jwksUri === undefined && written.jwks_uri !== undefined ? 'jwks_uri' : 'jwksUri';
  const jwksUri = written[field] ?? null;
  if (written.jwksUri !== undefined && written.jwks_uri !== undefined) {
    draft.fail([...at, 'jwks_uri'], 'jwksUri and jwks_uri are one field', 'leave one of the two out');
  }
  if (jwks !== null && jwksUri !== null) {
    draft.fail([...at, 'jwks'], 'jwks and jwksUri both say what the keys are', 'leave one of the two out');
  }
  if (jwks === null && jwksUri === null) {
    draft.fail(
      [...at, 'jwksUri'],
      `the keys of ${quote(written.issuer)} are not looked up at the issuer itself`,
      'write jwksUri (the jwks_uri of <issuer>/.well-known/openid-configuration) or jwks',
      'WEFT_CONFIG_MISSING_FIELD',
    );
  }
  const badSet = jwks === null ? null : refusedKeySet(jwks);
  // The text is not quoted: it may be what must not be in a log.
  if (badSet !== null) draft.fail([...at, 'jwks'], `the key set ${badSet}`, 'write a JWK Set of public keys: {"keys": […]}');
  const badUri = jwksUri === null ? null : refusedJwksUri(jwksUri);
  if (badUri !== null) draft.fail([...at, field], `${quote(jwksUri)} ${badUri}`, 'write the http or https URL of a JWK Set');
  return { jwks, jwksUri };
}

function output(draft: Draft, header: string, at: FieldPath): void {
  if (FRAMING.has(header.toLowerCase())) {
    draft.fail(at, `${quote(header)} is part of how the request is carried`, 'use a header of its own, such as x-jwt-payload');
  }
}
