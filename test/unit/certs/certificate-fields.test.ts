import assert from 'node:assert/strict';
import { X509Certificate as NodeCertificate } from 'node:crypto';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import { type CertificateFields, KEY_USAGE, readCertificateFields } from '../../../certs/x509/certificate-fields.ts';
import { DerError, DerReader } from '../../../certs/x509/der-reader.ts';
import { SvidVerifier } from '../../../certs/svid/peer-verifier.ts';
import {
  bundlesOf,
  ExtendedKeyUsage,
  type Forged,
  forge,
  forgeRoot,
  IDENTITY,
  KeyUsageFlags,
  readWithLibrary,
  TRUST_DOMAIN,
} from './forge.ts';

/** What both readers can say, in one form. */
function summary(fields: CertificateFields): object {
  return {
    uris: fields.uris.map((uri) => Buffer.from(uri).toString('latin1')),
    isCa: fields.isCa,
    pathLength: fields.pathLength,
    keyUsage: fields.keyUsage,
    extendedKeyUsage: fields.extendedKeyUsage,
    notBefore: fields.notBefore,
    notAfter: fields.notAfter,
    issuer: Buffer.from(fields.issuer).toString('hex'),
    subject: Buffer.from(fields.subject).toString('hex'),
  };
}

const usageBits = fc.subarray(
  [
    KeyUsageFlags.digitalSignature,
    KeyUsageFlags.keyAgreement,
    KeyUsageFlags.keyCertSign,
    KeyUsageFlags.cRLSign,
    KeyUsageFlags.decipherOnly,
    KeyUsageFlags.encipherOnly,
  ],
  { minLength: 1 },
);
const certificateOptions = fc.record({
  uris: fc.array(fc.stringMatching(/^spiffe:\/\/[a-z]{1,5}(\/[a-zA-Z0-9._-]{1,20}){0,3}$/), { maxLength: 3 }),
  ca: fc.boolean(),
  keyUsage: fc.option(usageBits.map((bits) => bits.reduce((a, b) => a | b, 0))),
  extendedKeyUsage: fc.option(
    fc.subarray([ExtendedKeyUsage.serverAuth, ExtendedKeyUsage.clientAuth, '1.2.840.113549.1.9.9999'], { minLength: 1 }),
  ),
  notBefore: fc
    .date({ min: new Date('1951-01-01'), max: new Date('2200-01-01'), noInvalidDate: true })
    .map((date) => Math.floor(date.getTime() / 1000) * 1000),
  subject: fc.constantFrom('', 'CN=a', 'C=DE, O=Fäden, CN=x'),
});

const refuse = (hex: string, read: (reader: DerReader) => unknown): void =>
  assert.throws(() => read(new DerReader(Buffer.from(hex, 'hex'))), DerError);

describe('the reader of certificates', () => {
  test('agrees with @peculiar/x509 and with OpenSSL on every field', async () => {
    await fc.assert(
      fc.asyncProperty(certificateOptions, async (options) => {
        const notAfter = options.notBefore + 86_400_000;
        const { der } = await forge({ ...options, notAfter, ...(options.ca ? { pathLength: options.uris.length } : {}) });
        const fields = readCertificateFields(der);
        assert.deepEqual(summary(fields), readWithLibrary(der));
        const openssl = new NodeCertificate(der);
        // OpenSSL's word for a CA that may sign certificates.
        assert.equal(openssl.ca, fields.isCa && (fields.keyUsage === null || (fields.keyUsage & KEY_USAGE.keyCertSign) !== 0));
        assert.equal(openssl.validFromDate.getTime(), fields.notBefore);
        assert.equal(openssl.validToDate.getTime(), fields.notAfter);
      }),
      { numRuns: 60 },
    );
  });

  test('refuses every certificate that is cut short', async () => {
    const { der } = await forge();
    for (let length = 0; length < der.length; length++) assert.throws(() => readCertificateFields(der.subarray(0, length)), DerError);
  });

  test('throws nothing but DerError on mangled certificates, and reads no more than there is', async () => {
    const { der } = await forge({ otherNames: [{ type: 'dns', value: 'cart' }] });
    const edit = fc.tuple(fc.nat(der.length - 1), fc.integer({ min: 0, max: 255 }));
    fc.assert(
      fc.property(fc.array(edit, { minLength: 1, maxLength: 4 }), (edits) => {
        const bytes = Uint8Array.from(der);
        for (const [at, value] of edits) bytes[at] = value;
        try {
          readCertificateFields(bytes);
        } catch (error) {
          assert.ok(error instanceof DerError, String(error));
        }
      }),
      { numRuns: 5000 },
    );
  });

  test('throws nothing but DerError on noise', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => {
        try {
          readCertificateFields(bytes);
        } catch (error) {
          assert.ok(error instanceof DerError, String(error));
        }
      }),
      { numRuns: 2000 },
    );
  });

  test('refuses a certificate that names two signature algorithms', async () => {
    const { der } = await forge();
    const bytes = Buffer.from(der);
    const ecdsaWithSha256 = Buffer.from('2a8648ce3d040302', 'hex');
    bytes[bytes.lastIndexOf(ecdsaWithSha256) + ecdsaWithSha256.length - 1] = 3;
    assert.throws(() => readCertificateFields(bytes), /algorithms differ/);
  });

  test('refuses more than 16 KiB without reading it', () => {
    assert.throws(() => readCertificateFields(new Uint8Array(16 * 1024 + 1)), /more than 16384 bytes/);
  });
});

describe('no mangled leaf', () => {
  test('is ever accepted, whichever of its bits is flipped', async () => {
    const root: Forged = await forgeRoot();
    const { der } = await forge({ issuer: root });
    const verifier = new SvidVerifier(bundlesOf({ [TRUST_DOMAIN]: root.pem }));
    assert.equal(verifier.verify([der]).text, IDENTITY);
    for (let bit = 0; bit < der.length * 8; bit++) {
      const bytes = Uint8Array.from(der);
      bytes[bit >> 3] = (bytes[bit >> 3] as number) ^ (1 << (bit & 7));
      assert.throws(() => verifier.verify([bytes]), { name: 'IdentityError' }, `bit ${bit}`);
    }
  });
});

describe('DER that BER would allow is refused', () => {
  test('an indefinite length', () => refuse('308002010000', (reader) => reader.enter(0x30, 'x')));
  test('a length in more bytes than it needs', () => refuse('308103020100', (reader) => reader.enter(0x30, 'x')));
  test('a length with a leading zero', () => refuse(`30820080${'00'.repeat(128)}`, (reader) => reader.enter(0x30, 'x')));
  test('a length beyond the end', () => refuse('300401', (reader) => reader.enter(0x30, 'x')));
  test('a boolean that is neither 00 nor FF', () => refuse('010101', (reader) => reader.boolean('x')));
  test('a padded integer', () => refuse('02020001', (reader) => reader.integerBytes('x')));
  test('a padded negative integer', () => refuse('0202ff80', (reader) => reader.integerBytes('x')));
  test('an empty integer', () => refuse('0200', (reader) => reader.integerBytes('x')));
  test('a negative path length', () => refuse('0201ff', (reader) => reader.smallInteger('x')));
  test('a bit string with unused bits set', () => refuse('03020103', (reader) => reader.bitString('x')));
  test('a bit string with eight unused bits', () => refuse('03020800', (reader) => reader.bitString('x')));
  test('a padded object identifier', () => refuse('06028001', (reader) => reader.objectIdentifier('x')));
  test('an object identifier that ends within an arc', () => refuse('06022a86', (reader) => reader.objectIdentifier('x')));

  for (const [what, time] of [
    ['without seconds', '2601010000Z'],
    ['with an offset', '260101000000+0000'],
    ['on 30 February', '260230000000Z'],
    ['at 24:00', '260101240000Z'],
    ['at second 60', '260101000060Z'],
    ['with letters', '2601010000a0Z'],
  ] as const) {
    test(`a time ${what}`, () =>
      refuse(`17${time.length.toString(16).padStart(2, '0')}${Buffer.from(time).toString('hex')}`, (reader) => reader.time('x')));
  }

  test('a GeneralizedTime for a year that UTCTime can say', () => {
    refuse(`180f${Buffer.from('20260101000000Z').toString('hex')}`, (reader) => reader.time('x'));
  });
});
