import {
  type Der,
  bitString,
  booleanTrue,
  explicit,
  implicit,
  objectIdentifier,
  octetString,
  sequence,
  setOf,
  smallInteger,
  time,
  unsignedInteger,
  utf8String,
} from './der-writer.ts';
import { EXTENDED_KEY_USAGE, EXTENSION } from './certificate-fields.ts';
import type { SigningKey } from './signing-key.ts';

/** What a certificate says (RFC 5280 section 4.1). */
export interface CertificateTemplate {
  /** Big-endian, positive, at most 20 bytes. */
  readonly serialNumber: Uint8Array;
  /** DER of the names. */
  readonly issuer: Uint8Array;
  readonly subject: Uint8Array;
  /** Milliseconds since the epoch, both inclusive. */
  readonly notBefore: number;
  readonly notAfter: number;
  /** DER. */
  readonly subjectPublicKeyInfo: Uint8Array;
  /** DER of each extension, as the functions below make them. */
  readonly extensions: readonly Uint8Array[];
}

/** The distinguished name without any part: what an SVID has for its subject. */
export const EMPTY_NAME: Der = sequence();

/** Attributes of names. */
const ATTRIBUTE = {
  commonName: '2.5.4.3',
  organization: '2.5.4.10',
} as const;
const VERSION_3: Der = explicit(0, smallInteger(2));
const URI_NAME = 6;
const DNS_NAME = 2;

/** The same in every leaf: no CA; digitalSignature; serverAuth and clientAuth (X509-SVID.md sections 4.1 to 4.4). */
const LEAF_EXTENSIONS: readonly Der[] = [
  extension(EXTENSION.basicConstraints, true, sequence()),
  extension(EXTENSION.keyUsage, true, bitString(Uint8Array.of(0b1000_0000), 7)),
  extension(
    EXTENSION.extKeyUsage,
    false,
    sequence(objectIdentifier(EXTENDED_KEY_USAGE.serverAuth), objectIdentifier(EXTENDED_KEY_USAGE.clientAuth)),
  ),
];
/** The same in every signing certificate: cA; keyCertSign and cRLSign. */
const AUTHORITY_EXTENSIONS: readonly Der[] = [
  extension(EXTENSION.basicConstraints, true, sequence(booleanTrue())),
  extension(EXTENSION.keyUsage, true, bitString(Uint8Array.of(0b0000_0110), 1)),
];

/** Signs a version 3 certificate. Returns its DER. */
export async function writeCertificate(template: CertificateTemplate, key: SigningKey): Promise<Uint8Array> {
  const body = sequence(
    VERSION_3,
    unsignedInteger(template.serialNumber),
    key.algorithm,
    template.issuer,
    sequence(time(template.notBefore), time(template.notAfter)),
    template.subject,
    template.subjectPublicKeyInfo,
    explicit(3, sequence(...template.extensions)),
  );
  return signed(body, key);
}

/** The shape that certificates and certificate requests share: content, algorithm, signature. */
export async function signed(content: Uint8Array, key: SigningKey): Promise<Uint8Array> {
  return sequence(content, key.algorithm, bitString(await key.sign(content)));
}

/**
 * The extensions of an X.509-SVID, all that X509-SVID.md asks for. The subjectAltName is critical because the subject is empty (RFC 5280
 * section 4.2.1.6).
 * @param authorityKeyIdentifier that of the issuer, if its certificate names one
 */
export function leafExtensions(identity: string, dns: readonly string[], authorityKeyIdentifier: Uint8Array | null): Uint8Array[] {
  const names = [implicit(URI_NAME, ascii(identity)), ...dns.map((name) => implicit(DNS_NAME, ascii(name)))];
  const extensions = [...LEAF_EXTENSIONS, extension(EXTENSION.subjectAltName, true, sequence(...names))];
  if (authorityKeyIdentifier !== null) {
    extensions.push(extension(EXTENSION.authorityKeyIdentifier, false, sequence(implicit(0, authorityKeyIdentifier))));
  }
  return extensions;
}

/** The extensions of a signing certificate (X509-SVID.md sections 4.1 to 4.3). `identity`: the SPIFFE ID of its trust domain, without a path. */
export function authorityExtensions(identity: string, subjectKeyIdentifier: Uint8Array): Uint8Array[] {
  return [
    ...AUTHORITY_EXTENSIONS,
    extension(EXTENSION.subjectKeyIdentifier, false, octetString(subjectKeyIdentifier)),
    extension(EXTENSION.subjectAltName, false, sequence(implicit(URI_NAME, ascii(identity)))),
  ];
}

/** A list of extensions that asks for one SPIFFE ID, for a certificate request. */
export function requestedIdentity(identity: string): Uint8Array {
  return sequence(extension(EXTENSION.subjectAltName, true, sequence(implicit(URI_NAME, ascii(identity)))));
}

/** The name `O=…, CN=…`. */
export function distinguishedName(organization: string, commonName: string): Uint8Array {
  return sequence(
    setOf(sequence(objectIdentifier(ATTRIBUTE.organization), utf8String(organization))),
    setOf(sequence(objectIdentifier(ATTRIBUTE.commonName), utf8String(commonName))),
  );
}

function extension(id: string, critical: boolean, value: Uint8Array): Der {
  return critical ? sequence(objectIdentifier(id), booleanTrue(), octetString(value)) : sequence(objectIdentifier(id), octetString(value));
}

function ascii(text: string): Uint8Array {
  return Buffer.from(text, 'latin1');
}
