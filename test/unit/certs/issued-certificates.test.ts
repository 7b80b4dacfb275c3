import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { createPublicKey, generateKeyPairSync, sign, X509Certificate } from 'node:crypto';
import { before, describe, test } from 'node:test';
import fc from 'fast-check';
import { createMaterial } from '../../../certs/authority/authority-material.ts';
import { CertificateAuthority } from '../../../certs/authority/certificate-authority.ts';
import { CertsError } from '../../../certs/errors.ts';
import { bitString, explicit, objectIdentifier, sequence, smallInteger, time, unsignedInteger } from '../../../certs/x509/der-writer.ts';
import { DerReader } from '../../../certs/x509/der-reader.ts';
import { certificatesFromPem, toPem } from '../../../certs/x509/pem.ts';
import { provenKey } from '../../../certs/x509/proven-key.ts';
import { createSigningRequest } from '../../../certs/x509/signing-request.ts';
import { IDENTITY, PeculiarCertificate, PeculiarRequest, TRUST_DOMAIN } from './forge.ts';

let authority: CertificateAuthority;
let leaf: Uint8Array;
let root: Uint8Array;
let csr: Uint8Array;

before(async () => {
  authority = new CertificateAuthority(await createMaterial(TRUST_DOMAIN, 86_400, Date.now()), TRUST_DOMAIN, Date.now);
  ({ csr } = await createSigningRequest(IDENTITY));
  const { certificateChain } = await authority.issue(csr, { identity: IDENTITY, ttlSeconds: 3600, dns: ['cart.shop.svc'] });
  leaf = certificatesFromPem(certificateChain)[0] as Uint8Array;
  root = authority.material.root;
});

/** Object identifiers of the extensions, with an exclamation mark when critical, as another implementation reads them. */
function extensionsOf(der: Uint8Array): string[] {
  return Array.from(new PeculiarCertificate(new Uint8Array(der)).extensions, (one) => `${one.type}${one.critical ? '!' : ''}`);
}

/** Runs the OpenSSL command with this input. */
function openssl(args: readonly string[], input: string): Promise<string> {
  return new Promise((resolve, reject) => {
    const child = execFile('openssl', args, { timeout: 10_000 }, (error, stdout, stderr) =>
      error === null ? resolve(stdout) : reject(new Error(stderr)),
    );
    child.stdin?.end(input);
  });
}

describe('what we issue, read by others', () => {
  test('a leaf has basicConstraints, keyUsage, extKeyUsage, subjectAltName and authorityKeyIdentifier, and no other extension', () => {
    assert.deepEqual(extensionsOf(leaf), ['2.5.29.19!', '2.5.29.15!', '2.5.29.37', '2.5.29.17!', '2.5.29.35']);
  });

  test('a root has basicConstraints, keyUsage, subjectKeyIdentifier and subjectAltName, and no other extension', () => {
    assert.deepEqual(extensionsOf(root), ['2.5.29.19!', '2.5.29.15!', '2.5.29.14', '2.5.29.17']);
  });

  test('@peculiar/x509 verifies the leaf with the root, the root with itself, and the request with its own key', async () => {
    const issuer = new PeculiarCertificate(new Uint8Array(root));
    assert.equal(await new PeculiarCertificate(new Uint8Array(leaf)).verify({ publicKey: issuer.publicKey, signatureOnly: true }), true);
    assert.equal(await issuer.verify({ signatureOnly: true }), true);
    assert.equal(await new PeculiarRequest(new Uint8Array(csr)).verify(), true);
  });

  test('node:crypto sees that the root has issued the leaf', () => {
    const [one, above] = [new X509Certificate(leaf), new X509Certificate(root)];
    assert.equal(one.verify(above.publicKey), true);
    assert.equal(one.checkIssued(above), true);
    assert.equal(one.subjectAltName, `URI:${IDENTITY}, DNS:cart.shop.svc`);
    assert.equal(above.ca, true);
    assert.equal(one.ca, false);
  });

  test("OpenSSL's command reads the leaf and the request and finds nothing wrong", async () => {
    const text = await openssl(['x509', '-noout', '-text'], toPem('CERTIFICATE', leaf));
    assert.match(text, /X509v3 Key Usage: critical\s+Digital Signature\n/);
    assert.match(text, /X509v3 Basic Constraints: critical\s+CA:FALSE\n/);
    assert.match(text, /TLS Web Server Authentication, TLS Web Client Authentication\n/);
    assert.match(text, /X509v3 Subject Alternative Name: critical\s+URI:spiffe:\/\/example.org\/ns\/shop\/sa\/cart, DNS:cart.shop.svc\n/);
    assert.match(await openssl(['req', '-noout', '-text', '-verify'], toPem('CERTIFICATE REQUEST', csr)), /URI:spiffe:/);
  });
});

describe('the DER writer', () => {
  test('writes lengths of every size so that the strict reader takes them', () => {
    fc.assert(
      fc.property(fc.integer({ min: 0, max: 70_000 }), (size) => {
        const reader = new DerReader(bitString(new Uint8Array(size)));
        assert.equal(reader.bitString('x').length, size);
        reader.finish('x');
      }),
    );
  });

  test('writes integers in their one form', () => {
    fc.assert(
      fc.property(fc.uint8Array({ minLength: 0, maxLength: 20 }), (bytes) => {
        const read = new DerReader(unsignedInteger(bytes)).integerBytes('x');
        assert.equal(BigInt(`0x${Buffer.from(read).toString('hex')}`), BigInt(`0x0${Buffer.from(bytes).toString('hex')}`));
      }),
    );
  });

  test('writes times before and after 2050 as RFC 5280 wants them', () => {
    for (const at of ['1950-01-01T00:00:00Z', '2049-12-31T23:59:59Z', '2050-01-01T00:00:00Z', '9999-12-31T23:59:59Z'].map((text) =>
      Date.parse(text),
    ))
      assert.equal(new DerReader(time(at)).time('x'), at);
  });

  test('writes object identifiers', () => {
    for (const id of ['1.2.840.113549.1.9.14', '2.5.29.17', '1.3.101.112', '2.999.3'])
      assert.equal(new DerReader(objectIdentifier(id)).objectIdentifier('x'), id);
  });
});

describe('proof of possession', () => {
  test('a request that was changed anywhere is never accepted, and never breaks anything', async () => {
    let accepted = 0;
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.tuple(fc.nat({ max: csr.length - 1 }), fc.integer({ min: 1, max: 255 })), { minLength: 1, maxLength: 4 }),
        fc.nat({ max: csr.length }),
        fc.boolean(),
        async (changes, length, cut) => {
          const mangled = Uint8Array.from(cut ? csr.subarray(0, length) : csr);
          for (const [at, by] of changes) if (at < mangled.length) mangled[at] = (mangled[at] as number) ^ by;
          if (Buffer.compare(mangled, csr) === 0) return;
          try {
            await provenKey(mangled);
            accepted++;
          } catch (error) {
            if (!(error instanceof CertsError)) throw error;
          }
        },
      ),
      { numRuns: 3000 },
    );
    assert.equal(accepted, 0);
  });

  test('noise is refused', async () => {
    await fc.assert(
      fc.asyncProperty(fc.uint8Array({ maxLength: 300 }), async (noise) => {
        await assert.rejects(provenKey(noise), { code: 'WEFT_CERTS_CSR' });
      }),
    );
  });

  test('an RSA and an Ed25519 key can be proven; a signature by another key proves nothing', async () => {
    const rsa = generateKeyPairSync('rsa', { modulusLength: 2048 });
    const ed = generateKeyPairSync('ed25519');
    const other = generateKeyPairSync('ed25519');
    const request = (publicKey: typeof rsa.publicKey, algorithm: Uint8Array, signer: (content: Uint8Array) => Uint8Array): Uint8Array => {
      const content = sequence(smallInteger(0), sequence(), publicKey.export({ type: 'spki', format: 'der' }), explicit(0));
      return sequence(content, algorithm, bitString(signer(content)));
    };
    const rsaAlgorithm = sequence(objectIdentifier('1.2.840.113549.1.1.11'), Uint8Array.of(5, 0));
    const edAlgorithm = sequence(objectIdentifier('1.3.101.112'));
    const proven = await provenKey(request(rsa.publicKey, rsaAlgorithm, (content) => sign('sha256', content, rsa.privateKey)));
    assert.equal(createPublicKey({ key: Buffer.from(proven), format: 'der', type: 'spki' }).equals(rsa.publicKey), true);
    await provenKey(request(ed.publicKey, edAlgorithm, (content) => sign(null, content, ed.privateKey)));
    await assert.rejects(provenKey(request(ed.publicKey, edAlgorithm, (content) => sign(null, content, other.privateKey))), {
      code: 'WEFT_CERTS_CSR',
      message: /not signed/,
    });
    await assert.rejects(provenKey(request(ed.publicKey, rsaAlgorithm, (content) => sign(null, content, ed.privateKey))), {
      code: 'WEFT_CERTS_CSR',
      message: /not signed/,
    });
    const weak = generateKeyPairSync('ec', { namedCurve: 'secp256k1' });
    const ecAlgorithm = sequence(objectIdentifier('1.2.840.10045.4.3.2'));
    await assert.rejects(provenKey(request(weak.publicKey, ecAlgorithm, (content) => sign('sha256', content, weak.privateKey))), {
      code: 'WEFT_CERTS_WEAK_KEY',
    });
  });
});
