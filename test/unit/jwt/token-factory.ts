import { constants, generateKeyPairSync, type KeyObject, sign } from 'node:crypto';
import type { JwtRule } from '../../../src/model/resources.ts';
import { compileJwtRules, type JwtRuleSet } from '../../../proxy/jwt/jwt-rule-set.ts';
import { KeySet } from '../../../src/jose/key-set.ts';
import type { KeySource } from '../../../proxy/jwt/key-source.ts';
import { jwtRule } from '../gate/fixtures.ts';

/** 2026-01-01, in seconds. */
export const NOW = 1_767_225_600;
export const ISSUER = 'https://issuer.example';

interface Pair {
  readonly publicKey: KeyObject;
  readonly privateKey: KeyObject;
}

const pairs = new Map<string, Pair>();

/** A key pair by name, made once: 'rsa', 'rsa-1024', 'P-256', 'P-384', 'P-521', and more of a kind as 'P-256/other'. */
export function pair(name: string): Pair {
  let made = pairs.get(name);
  if (made === undefined) {
    const kind = name.split('/')[0] as string;
    if (kind.startsWith('rsa')) made = generateKeyPairSync('rsa', { modulusLength: kind === 'rsa-1024' ? 1024 : 2048 });
    else made = generateKeyPairSync('ec', { namedCurve: kind });
    pairs.set(name, made);
  }
  return made;
}

/** A JWK of a pair's public key. */
export function jwk(name: string, more: Record<string, unknown> = {}): Record<string, unknown> {
  return { ...pair(name).publicKey.export({ format: 'jwk' }), ...more };
}

export function jwks(...keys: Record<string, unknown>[]): string {
  return JSON.stringify({ keys });
}

export const KEY_OF: Readonly<Record<string, string>> = {
  RS256: 'rsa',
  RS384: 'rsa',
  RS512: 'rsa',
  PS256: 'rsa',
  PS384: 'rsa',
  PS512: 'rsa',
  ES256: 'P-256',
  ES384: 'P-384',
  ES512: 'P-521',
};

export const CLAIMS: Readonly<Record<string, unknown>> = { iss: ISSUER, sub: 'ann', exp: NOW + 3600 };

const encode = (value: unknown): string => Buffer.from(typeof value === 'string' ? value : JSON.stringify(value)).toString('base64url');

interface TokenParts {
  readonly alg?: string;
  readonly key?: string;
  readonly header?: Record<string, unknown>;
  /** Raw JSON text, or claims. */
  readonly payload?: string | Record<string, unknown>;
  readonly rawHeader?: string;
}

/** A token signed as `alg` says, by `key` (default: one of the algorithm's type). */
export function token({ alg = 'ES256', key = KEY_OF[alg] ?? 'P-256', header = {}, payload = CLAIMS, rawHeader }: TokenParts = {}): string {
  const input = `${encode(rawHeader ?? { alg, ...header })}.${encode(payload)}`;
  const hash = `sha${/\d+$/.exec(alg)?.[0] ?? '256'}`;
  const { privateKey } = pair(key);
  const options = alg.startsWith('PS')
    ? { key: privateKey, padding: constants.RSA_PKCS1_PSS_PADDING, saltLength: constants.RSA_PSS_SALTLEN_DIGEST }
    : { key: privateKey, dsaEncoding: 'ieee-p1363' as const };
  return `${input}.${sign(hash, Buffer.from(input), options).toString('base64url')}`;
}

export function ruleSet(...rules: Partial<JwtRule>[]): JwtRuleSet {
  const set = compileJwtRules([{ name: 'shop/jwt', rules: rules.map((rule) => jwtRule(rule)) }]);
  if (set === null) throw new Error('no rules');
  return set;
}

/** Keys that are there: each rule's own `jwks`. */
export function inlineKeys(): KeySource {
  const known = new Map<JwtRule, KeySet>();
  return {
    keys: (rule) => {
      if (rule.jwks === null) return null;
      const keys = known.get(rule) ?? KeySet.parse(rule.jwks);
      known.set(rule, keys);
      return keys;
    },
    refresh: () => null,
  };
}
