import type { KeyObject } from 'node:crypto';
import { errorText } from '../../src/model/errors.ts';
import { parseStrictJson } from '../../src/jose/strict-json.ts';
import { CertsError } from '../errors.ts';
import { encryptPrivateKey } from '../x509/pbes2.ts';
import { certificatesToPem, toPem } from '../x509/pem.ts';
import { type AuthorityMaterial, materialFromPem, readPrivateKey } from './authority-material.ts';
import {
  type AuthorityState,
  activeSlot,
  MAX_SLOTS,
  type RevokedKey,
  type Rotation,
  type Slot,
  type SlotState,
  type StoredKeys,
} from './authority-state.ts';
import { CertificateAuthority } from './certificate-authority.ts';
import { JwtSigner } from './jwt-signer.ts';

/** The version of the format that this code writes, and the only one that it reads. */
const FORMAT = 1;
const MAX_DEPTH = 8;
const ID = /^[0-9a-f]{12}$/;
const SHA256_HEX = /^[0-9a-f]{64}$/;
const DECIMAL = /^(?:0|[1-9][0-9]{0,18})$/;

/** How keys go into the file and come out of it again. */
export interface KeyProtection {
  /** Null: keys are stored as they are, and the file's mode is what protects them. */
  readonly passphrase: string | null;
}

/** The private keys as text for the file. */
export async function storeKeys(material: AuthorityMaterial, jwtKey: KeyObject, protection: KeyProtection): Promise<StoredKeys> {
  return {
    certificates: certificatesToPem(material.certificates),
    key: await privateKeyPem(material.privateKey, protection.passphrase),
    jwtKey: await privateKeyPem(jwtKey, protection.passphrase),
  };
}

/** PKCS#8 PEM; with a passphrase encrypted by PBES2 with AES-256 (RFC 8018). */
export async function privateKeyPem(key: KeyObject, passphrase: string | null): Promise<string> {
  const pkcs8 = key.export({ type: 'pkcs8', format: 'der' });
  const pem =
    passphrase === null ? toPem('PRIVATE KEY', pkcs8) : toPem('ENCRYPTED PRIVATE KEY', await encryptPrivateKey(pkcs8, passphrase));
  pkcs8.fill(0);
  return pem;
}

/** The text of a state file. */
export function writeState(state: AuthorityState, savedAt: number): string {
  const document = {
    version: FORMAT,
    trustDomain: state.trustDomain,
    sequence: state.sequence.toString(),
    savedAt,
    slots: state.slots.map(({ id, state, tainted, origin, preparedAt, issuedUntil, stored }) => ({
      id,
      state,
      tainted,
      origin,
      preparedAt,
      issuedUntil,
      ...stored,
    })),
    revoked: state.revoked,
    rotation: state.rotation === null ? null : { ...state.rotation, sequence: state.rotation.sequence.toString() },
  };
  return `${JSON.stringify(document, null, 1)}\n`;
}

/** A state file's content. */
export interface StateDocument {
  readonly state: AuthorityState;
  /** Milliseconds since the epoch. */
  readonly savedAt: number;
}

/**
 * Reads a state file, strictly: whatever is missing, unknown or of another form is refused.
 * @param known slots that were read before: their keys need not be decrypted again
 * @throws CertsError WEFT_CERTS_STATE_FILE, WEFT_CERTS_CA_TRUST_DOMAIN, WEFT_CERTS_PASSPHRASE, WEFT_CERTS_CA_INVALID
 */
export function readState(
  text: string,
  path: string,
  trustDomain: string,
  protection: KeyProtection,
  known: readonly Slot[],
  now: () => number,
): StateDocument {
  const refuse = (why: string): CertsError =>
    new CertsError('WEFT_CERTS_STATE_FILE', `cannot use the authority's state ${path}: ${why}`, {
      nextStep: 'put back a backup of the directory; Weft leaves the file as it is',
    });
  let document: Fields;
  try {
    document = new Fields(parseStrictJson(text, MAX_DEPTH), refuse);
  } catch (error) {
    if (error instanceof CertsError) throw error;
    throw refuse(`it is not JSON, perhaps cut short: ${errorText(error)}`);
  }
  const version = document.number('version');
  if (version !== FORMAT) throw refuse(`it has version ${version}, this Weft knows version ${FORMAT}`);
  const domain = document.text('trustDomain');
  if (domain !== trustDomain) {
    throw new CertsError('WEFT_CERTS_CA_TRUST_DOMAIN', `the authority in ${path} is for the trust domain ${domain}, not ${trustDomain}`, {
      nextStep: 'use its trust domain, or another directory for the other trust domain',
    });
  }
  const slots = document.list('slots', MAX_SLOTS).map((slot) => readSlot(slot, refuse, trustDomain, protection, known, now));
  const state: AuthorityState = {
    trustDomain,
    sequence: document.big('sequence'),
    slots,
    revoked: document
      .list('revoked', 1024)
      .map((one): RevokedKey => ({ key: one.matching('key', SHA256_HEX), until: one.number('until') })),
    rotation: readRotation(document.optional('rotation')),
  };
  const savedAt = document.number('savedAt');
  document.finish();
  if (new Set(slots.map((slot) => slot.id)).size !== slots.length) throw refuse('two authorities have one id');
  const active = slots.filter((slot) => slot.state === 'active').length;
  if (active !== 1) throw refuse(`it has ${active} active authorities instead of one`);
  if (state.rotation !== null && !slots.some((slot) => slot.id === state.rotation?.slot))
    throw refuse('its rotation is to an authority that is not there');
  activeSlot(state);
  return { state, savedAt };
}

function readSlot(
  fields: Fields,
  refuse: (why: string) => CertsError,
  trustDomain: string,
  protection: KeyProtection,
  known: readonly Slot[],
  now: () => number,
): Slot {
  const stored: StoredKeys = { certificates: fields.text('certificates'), key: fields.text('key'), jwtKey: fields.text('jwtKey') };
  const state = fields.text('state');
  if (!(['prepared', 'active', 'old'] as const).includes(state as SlotState)) throw refuse(`an authority is ${JSON.stringify(state)}`);
  const origin = fields.text('origin');
  if (origin !== 'created' && origin !== 'imported') throw refuse(`an authority is ${JSON.stringify(origin)}`);
  const id = fields.matching('id', ID);
  const same = known.find(
    (one) =>
      one.id === id &&
      one.stored.key === stored.key &&
      one.stored.jwtKey === stored.jwtKey &&
      one.stored.certificates === stored.certificates,
  );
  const signers = same ?? readSigners(stored, trustDomain, protection, now);
  const slot: Slot = {
    id,
    state: state as SlotState,
    tainted: fields.flag('tainted'),
    origin,
    preparedAt: fields.number('preparedAt'),
    issuedUntil: fields.number('issuedUntil'),
    x509: signers.x509,
    jwt: signers.jwt,
    stored,
  };
  fields.finish();
  return slot;
}

/** The two signers of stored keys. @throws CertsError WEFT_CERTS_PASSPHRASE, WEFT_CERTS_CA_INVALID, WEFT_CERTS_CA_TRUST_DOMAIN */
export function readSigners(
  stored: StoredKeys,
  trustDomain: string,
  protection: KeyProtection,
  now: () => number,
): Pick<Slot, 'x509' | 'jwt'> {
  const passphrase = protection.passphrase === null ? {} : { passphrase: protection.passphrase };
  const material = materialFromPem({ certificate: stored.certificates, key: stored.key, ...passphrase });
  return {
    x509: new CertificateAuthority(material, trustDomain, now),
    jwt: new JwtSigner(trustDomain, readPrivateKey(stored.jwtKey, protection.passphrase ?? undefined)),
  };
}

function readRotation(fields: Fields | null): Rotation | null {
  if (fields === null) return null;
  const phase = fields.matching('phase', /^(?:publishing|retiring)$/) as Rotation['phase'];
  const rotation: Rotation = {
    phase,
    slot: fields.matching('slot', ID),
    sequence: fields.big('sequence'),
    since: fields.number('since'),
    activateAt: fields.number('activateAt'),
    activateAnyway: fields.numberOrNull('activateAnyway'),
  };
  fields.finish();
  return rotation;
}

/** One JSON object, of which every member must be taken. */
class Fields {
  readonly #members: Map<string, unknown>;
  readonly #refuse: (why: string) => CertsError;

  constructor(value: unknown, refuse: (why: string) => CertsError) {
    if (typeof value !== 'object' || value === null || Array.isArray(value)) throw refuse('it is not an object');
    this.#members = new Map(Object.entries(value));
    this.#refuse = refuse;
  }

  text(name: string): string {
    return this.#take(name, (value) => typeof value === 'string') as string;
  }

  matching(name: string, pattern: RegExp): string {
    return this.#take(name, (value) => typeof value === 'string' && pattern.test(value)) as string;
  }

  number(name: string): number {
    return this.#take(name, (value) => typeof value === 'number' && Number.isSafeInteger(value) && value >= 0) as number;
  }

  numberOrNull(name: string): number | null {
    return this.#members.get(name) === null ? (this.#take(name, () => true) as null) : this.number(name);
  }

  big(name: string): bigint {
    return BigInt(this.matching(name, DECIMAL));
  }

  flag(name: string): boolean {
    return this.#take(name, (value) => typeof value === 'boolean') as boolean;
  }

  optional(name: string): Fields | null {
    const value = this.#take(name, (member) => member === null || typeof member === 'object');
    return value === null ? null : new Fields(value, this.#refuse);
  }

  list(name: string, limit: number): Fields[] {
    const value = this.#take(name, (member) => Array.isArray(member) && member.length <= limit) as unknown[];
    return value.map((one) => new Fields(one, this.#refuse));
  }

  finish(): void {
    const [unknown] = this.#members.keys();
    if (unknown !== undefined) throw this.#refuse(`it has an unknown member ${JSON.stringify(unknown.slice(0, 40))}`);
  }

  #take(name: string, fits: (value: unknown) => boolean): unknown {
    const value = this.#members.get(name);
    if (value === undefined || !fits(value)) throw this.#refuse(`its ${name} is missing or of another form`);
    this.#members.delete(name);
    return value;
  }
}
