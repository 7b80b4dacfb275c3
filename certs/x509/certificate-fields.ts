import { DerError, DerReader, TAG } from './der-reader.ts';

/**
 * The fields of a certificate that X509-SVID.md and RFC 5280 path validation need, read from strict DER. Why not a library here: every
 * proxy worker loads this, and @peculiar/x509 costs 10 MB of memory in each. Signatures stay with node:crypto.
 */
export interface CertificateFields {
  readonly der: Uint8Array;
  /** DER of the issuer and subject names. Compared as bytes. */
  readonly issuer: Uint8Array;
  readonly subject: Uint8Array;
  readonly subjectIsEmpty: boolean;
  /** Milliseconds since the epoch, both inclusive. */
  readonly notBefore: number;
  readonly notAfter: number;
  /** Dotted object identifier. */
  readonly signatureAlgorithm: string;
  /** Content of every uniformResourceIdentifier in the subjectAltName, undecoded. */
  readonly uris: readonly Uint8Array[];
  readonly subjectAltNameCritical: boolean;
  /** basicConstraints; absent means not a CA. */
  readonly isCa: boolean;
  /** Null: no limit. */
  readonly pathLength: number | null;
  /** Null: no keyUsage extension. Bit n of RFC 5280 section 4.2.1.3 is `1 << n`. */
  readonly keyUsage: number | null;
  readonly keyUsageCritical: boolean;
  /** Null: no extKeyUsage extension. */
  readonly extendedKeyUsage: readonly string[] | null;
  /** Null: no subjectKeyIdentifier extension. */
  readonly subjectKeyIdentifier: Uint8Array | null;
  /** DER of the extension's value, unread: it only tells issuers of the same name apart. Null: no authorityKeyIdentifier extension. */
  readonly authorityKeyIdentifier: Uint8Array | null;
  /** Object identifiers of extensions that restrict a path in a way this room does not evaluate: critical and unknown, or constraints. */
  readonly unhandled: readonly string[];
}

/** Bits of keyUsage. */
export const KEY_USAGE: { readonly digitalSignature: number; readonly keyCertSign: number; readonly crlSign: number } = {
  digitalSignature: 1,
  keyCertSign: 1 << 5,
  crlSign: 1 << 6,
};

/** Object identifiers of extKeyUsage. */
export const EXTENDED_KEY_USAGE = {
  any: '2.5.29.37.0',
  serverAuth: '1.3.6.1.5.5.7.3.1',
  clientAuth: '1.3.6.1.5.5.7.3.2',
} as const;

/** Larger certificates are refused before they are read. An SVID with the longest SPIFFE ID has about 2.5 KiB. */
const MAX_CERTIFICATE_BYTES = 16 * 1024;

/** Object identifiers of the extensions that are read or written (RFC 5280 section 4.2.1). */
export const EXTENSION = {
  subjectKeyIdentifier: '2.5.29.14',
  authorityKeyIdentifier: '2.5.29.35',
  keyUsage: '2.5.29.15',
  subjectAltName: '2.5.29.17',
  basicConstraints: '2.5.29.19',
  nameConstraints: '2.5.29.30',
  certificatePolicies: '2.5.29.32',
  policyConstraints: '2.5.29.36',
  extKeyUsage: '2.5.29.37',
} as const;

/** GeneralName of RFC 5280 section 4.2.1.6: the tags that exist. otherName, x400Address, directoryName and ediPartyName are constructed. */
const GENERAL_NAME_TAGS: ReadonlySet<number> = new Set([0xa0, 0x81, 0x82, 0xa3, 0xa4, 0xa5, 0x86, 0x87, 0x88]);
const URI_NAME_TAG = 0x86;

type Mutable<T> = { -readonly [K in keyof T]: T[K] };

/**
 * Reads one DER certificate, version 3 only.
 * @throws DerError when it is not strict DER, or not a certificate
 */
export function readCertificateFields(der: Uint8Array): CertificateFields {
  if (der.length > MAX_CERTIFICATE_BYTES) throw new DerError(`the certificate has more than ${MAX_CERTIFICATE_BYTES} bytes`);
  const outer = new DerReader(der);
  const certificate = outer.enter(TAG.sequence, 'the certificate');
  outer.finish('the certificate');
  const body = certificate.enter(TAG.sequence, 'tbsCertificate');
  const algorithmStart = certificate.position;
  const signatureAlgorithm = certificate.enter(TAG.sequence, 'signatureAlgorithm').objectIdentifier('signatureAlgorithm');
  const outerAlgorithm = der.subarray(algorithmStart, certificate.position);
  certificate.bitString('signatureValue');
  certificate.finish('the certificate');

  const version = body.enter(0xa0, 'version');
  if (version.smallInteger('version') !== 2) throw new DerError('not a version 3 certificate');
  version.finish('version');
  if (body.integerBytes('serialNumber').length > 21) throw new DerError('serialNumber is longer than 20 bytes');
  const innerAlgorithm = element(body, TAG.sequence, 'signature');
  // RFC 5280 section 4.1.1.2: otherwise the unsigned copy could name another algorithm.
  if (!sameBytes(innerAlgorithm, outerAlgorithm)) throw new DerError('the two signature algorithms differ');
  const issuer = element(body, TAG.sequence, 'issuer');
  const validity = body.enter(TAG.sequence, 'validity');
  const notBefore = validity.time('notBefore');
  const notAfter = validity.time('notAfter');
  validity.finish('validity');
  const subject = element(body, TAG.sequence, 'subject');
  element(body, TAG.sequence, 'subjectPublicKeyInfo');

  const fields: Mutable<CertificateFields> = {
    der,
    issuer,
    subject,
    subjectIsEmpty: subject.length === 2,
    notBefore,
    notAfter,
    signatureAlgorithm,
    uris: [],
    subjectAltNameCritical: false,
    isCa: false,
    pathLength: null,
    keyUsage: null,
    keyUsageCritical: false,
    extendedKeyUsage: null,
    subjectKeyIdentifier: null,
    authorityKeyIdentifier: null,
    unhandled: [],
  };
  if (!body.atEnd) readExtensions(body.enter(0xa3, 'extensions'), fields);
  body.finish('tbsCertificate');
  return fields;
}

function readExtensions(tagged: DerReader, fields: Mutable<CertificateFields>): void {
  const list = tagged.enter(TAG.sequence, 'extensions');
  tagged.finish('extensions');
  if (list.atEnd) throw new DerError('the list of extensions is empty');
  const seen = new Set<string>();
  const unhandled: string[] = [];
  while (!list.atEnd) {
    const extension = list.enter(TAG.sequence, 'an extension');
    const id = extension.objectIdentifier('an extension');
    if (seen.has(id)) throw new DerError(`extension ${id} occurs twice`);
    seen.add(id);
    let critical = false;
    if (extension.peekTag() === TAG.boolean) {
      critical = extension.boolean(`extension ${id}`);
      if (!critical) throw new DerError(`extension ${id} encodes a default`);
    }
    const value = new DerReader(extension.enter(TAG.octetString, `extension ${id}`).rest());
    extension.finish(`extension ${id}`);
    switch (id) {
      case EXTENSION.subjectKeyIdentifier:
        fields.subjectKeyIdentifier = value.enter(TAG.octetString, 'subjectKeyIdentifier').rest();
        value.finish('subjectKeyIdentifier');
        break;
      case EXTENSION.authorityKeyIdentifier:
        // Nothing here evaluates it, so that a critical one stays refused.
        if (critical) unhandled.push(id);
        fields.authorityKeyIdentifier = value.rest();
        break;
      case EXTENSION.keyUsage:
        fields.keyUsage = readKeyUsage(value);
        fields.keyUsageCritical = critical;
        value.finish('keyUsage');
        break;
      case EXTENSION.subjectAltName:
        fields.uris = readUris(value);
        fields.subjectAltNameCritical = critical;
        value.finish('subjectAltName');
        break;
      case EXTENSION.basicConstraints:
        readBasicConstraints(value, fields);
        value.finish('basicConstraints');
        break;
      case EXTENSION.extKeyUsage:
        fields.extendedKeyUsage = readExtendedKeyUsage(value);
        value.finish('extKeyUsage');
        break;
      case EXTENSION.certificatePolicies:
        // We ask for no policy, and whoever demands one says so in a critical policyConstraints.
        break;
      case EXTENSION.nameConstraints:
      case EXTENSION.policyConstraints:
        // RFC 5280 wants these critical. Where an issuer forgot, they are still meant.
        unhandled.push(id);
        break;
      default:
        if (critical) unhandled.push(id);
    }
  }
  fields.unhandled = unhandled;
}

function readKeyUsage(value: DerReader): number {
  const bytes = value.bitString('keyUsage');
  let usage = 0;
  for (let bit = 0; bit < 9; bit++) {
    const byte = bytes[bit >> 3];
    if (byte !== undefined && (byte & (0x80 >> (bit & 7))) !== 0) usage |= 1 << bit;
  }
  if (usage === 0) throw new DerError('keyUsage has no bit set');
  return usage;
}

function readUris(value: DerReader): Uint8Array[] {
  const names = value.enter(TAG.sequence, 'subjectAltName');
  if (names.atEnd) throw new DerError('subjectAltName is empty');
  const uris: Uint8Array[] = [];
  while (!names.atEnd) {
    const tag = names.peekTag();
    if (!GENERAL_NAME_TAGS.has(tag)) throw new DerError(`subjectAltName has an entry of unknown type 0x${tag.toString(16)}`);
    const content = names.enter(tag, 'an entry of subjectAltName').rest();
    if (tag === URI_NAME_TAG) uris.push(content);
  }
  return uris;
}

function readBasicConstraints(value: DerReader, fields: Mutable<CertificateFields>): void {
  const constraints = value.enter(TAG.sequence, 'basicConstraints');
  if (constraints.peekTag() === TAG.boolean) {
    fields.isCa = constraints.boolean('cA');
    if (!fields.isCa) throw new DerError('basicConstraints encodes a default');
  }
  if (!constraints.atEnd) {
    if (!fields.isCa) throw new DerError('basicConstraints has a path length without cA');
    fields.pathLength = constraints.smallInteger('pathLenConstraint');
  }
  constraints.finish('basicConstraints');
}

function readExtendedKeyUsage(value: DerReader): string[] {
  const list = value.enter(TAG.sequence, 'extKeyUsage');
  if (list.atEnd) throw new DerError('extKeyUsage is empty');
  const usages: string[] = [];
  while (!list.atEnd) usages.push(list.objectIdentifier('extKeyUsage'));
  return usages;
}

/** The bytes of the next element, header included. */
function element(reader: DerReader, tag: number, what: string): Uint8Array {
  const start = reader.position;
  reader.enter(tag, what);
  return reader.bytes.subarray(start, reader.position);
}

export function sameBytes(a: Uint8Array, b: Uint8Array): boolean {
  if (a.length !== b.length) return false;
  for (let i = 0; i < a.length; i++) if (a[i] !== b[i]) return false;
  return true;
}
