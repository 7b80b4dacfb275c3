import assert from 'node:assert/strict';
import { createPrivateKey, generateKeyPairSync, X509Certificate } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { before, describe, test } from 'node:test';
import { BACKDATE_SECONDS, createMaterial } from '../../../certs/authority/authority-material.ts';
import { CertificateAuthority, type IssueRequest } from '../../../certs/authority/certificate-authority.ts';
import { KEY_USAGE, readCertificateFields } from '../../../certs/x509/certificate-fields.ts';
import { SvidVerifier } from '../../../certs/svid/peer-verifier.ts';
import { certificatesFromPem } from '../../../certs/x509/pem.ts';
import { type SigningKey, signingKeyInProcess } from '../../../certs/x509/signing-key.ts';
import { keyObject } from '../../../certs/svid/private-key.ts';
import { createSigningRequest, type SigningRequest } from '../../../certs/x509/signing-request.ts';
import { bundlesOf, type ForgeOptions, forge, forgeRequest, forgeRoot, IDENTITY, KeyUsageFlags, TRUST_DOMAIN } from './forge.ts';

const TEN_YEARS = 10 * 365 * 24 * 3600;
let authority: CertificateAuthority;
let request: SigningRequest;

before(async () => {
  authority = new CertificateAuthority(await createMaterial(TRUST_DOMAIN, TEN_YEARS, Date.now()), TRUST_DOMAIN, Date.now);
  request = await createSigningRequest(IDENTITY);
});

function error(code: string, message?: RegExp): object {
  return { code, ...(message === undefined ? {} : { message }) };
}

const given = (certificate: string, key: string, trustDomain = TRUST_DOMAIN): Promise<CertificateAuthority> =>
  CertificateAuthority.fromPem({ certificate, key, trustDomain });

const issueAndRead = async (options: Partial<IssueRequest> = {}, ca = authority, csr = request.csr) => {
  const issued = await ca.issue(csr, { identity: IDENTITY, ttlSeconds: 60, ...options });
  const [der] = certificatesFromPem(issued.certificateChain);
  return { issued, fields: readCertificateFields(der as Uint8Array), certificate: new X509Certificate(der as Uint8Array) };
};

/** A root with an RSA key of this size. */
const rsaRoot = (modulusLength: number): ForgeOptions => ({
  keyAlgorithm: { name: 'RSASSA-PKCS1-v1_5', modulusLength, publicExponent: Uint8Array.of(1, 0, 1), hash: 'SHA-256' },
  signingAlgorithm: { name: 'RSASSA-PKCS1-v1_5', hash: 'SHA-256' },
});

const issue = (options: Partial<IssueRequest>, csr = request.csr): Promise<unknown> =>
  authority.issue(csr, { identity: IDENTITY, ttlSeconds: 60, ...options });

describe('a signing key that is kept elsewhere', () => {
  /** Stands for a key management service: it signs, and shows its public key. */
  async function service(): Promise<{ certificates: readonly Uint8Array[]; key: SigningKey; asked: () => number }> {
    const { certificates, privateKey } = await createMaterial(TRUST_DOMAIN, TEN_YEARS, Date.now());
    const kept = signingKeyInProcess(privateKey) as SigningKey;
    let asked = 0;
    const key: SigningKey = {
      publicKey: kept.publicKey,
      algorithm: kept.algorithm,
      sign(content) {
        asked++;
        return kept.sign(content);
      },
    };
    return { certificates, key, asked: () => asked };
  }

  test('signs SVIDs that verify, and is asked once for each', async () => {
    const { certificates, key, asked } = await service();
    const ca = new CertificateAuthority({ certificates, privateKey: key }, TRUST_DOMAIN, Date.now);
    const { certificateChain } = await ca.issue(request.csr, { identity: IDENTITY, ttlSeconds: 60 });
    assert.equal(new SvidVerifier(bundlesOf({ [TRUST_DOMAIN]: ca.roots })).verify(certificatesFromPem(certificateChain)).text, IDENTITY);
    assert.equal(asked(), 1);
  });

  test('must be that of the certificate', async () => {
    const [{ certificates }, { key }] = await Promise.all([service(), service()]);
    assert.throws(
      () => new CertificateAuthority({ certificates, privateKey: key }, TRUST_DOMAIN, Date.now),
      error('WEFT_CERTS_CA_INVALID', /does not belong/),
    );
  });

  test('that fails to sign fails the request, with its reason', async () => {
    const { certificates, key } = await service();
    const broken: SigningKey = { ...key, sign: () => Promise.reject(new Error('the service is away')) };
    const ca = new CertificateAuthority({ certificates, privateKey: broken }, TRUST_DOMAIN, Date.now);
    await assert.rejects(ca.issue(request.csr, { identity: IDENTITY, ttlSeconds: 60 }), /the service is away/);
  });
});

describe('a given authority', () => {
  test('issues with its chain, and its SVIDs verify against the root alone', async () => {
    const root = await forgeRoot();
    const signer = await forge({ issuer: root, subject: 'CN=signer', uris: [], ca: true });
    const ca = await given(signer.pem + root.pem, signer.privateKey);
    assert.equal(ca.roots, root.pem);
    const { certificateChain } = await ca.issue(request.csr, { identity: IDENTITY, ttlSeconds: 60 });
    const chain = certificatesFromPem(certificateChain);
    assert.equal(chain.length, 2);
    assert.equal(new SvidVerifier(bundlesOf({ [TRUST_DOMAIN]: root.pem })).verify(chain).text, IDENTITY);
  });

  test('may have a P-384 key, in the older SEC1 form', async () => {
    const root = await forgeRoot({
      keyAlgorithm: { name: 'ECDSA', namedCurve: 'P-384' },
      signingAlgorithm: { name: 'ECDSA', hash: 'SHA-384' },
    });
    const sec1 = createPrivateKey(root.privateKey).export({ type: 'sec1', format: 'pem' }).toString();
    const { certificateChain } = await (await given(root.pem, sec1)).issue(request.csr, { identity: IDENTITY, ttlSeconds: 60 });
    assert.equal(new SvidVerifier(bundlesOf({ [TRUST_DOMAIN]: root.pem })).verify(certificatesFromPem(certificateChain)).text, IDENTITY);
  });

  test('made by OpenSSL with an unusual name keeps that name byte by byte', async () => {
    // Two values in one set, an escaped plus, UTF-8 and IA5 strings: what encoding the name anew would get wrong.
    const pem = await readFile(new URL('./fixtures/unusual-name-ca.pem', import.meta.url), 'utf8');
    const { certificateChain } = await (await given(pem, pem)).issue(request.csr, { identity: IDENTITY, ttlSeconds: 60 });
    assert.equal(new SvidVerifier(bundlesOf({ [TRUST_DOMAIN]: pem })).verify(certificatesFromPem(certificateChain)).text, IDENTITY);
  });

  test('is refused when it is not a CA', async () => {
    const leaf = await forge({ subject: 'CN=leaf', uris: [] });
    await assert.rejects(given(leaf.pem, leaf.privateKey), error('WEFT_CERTS_CA_INVALID', /not a CA/));
  });

  test('is refused when it may not sign certificates', async () => {
    const root = await forgeRoot({ keyUsage: KeyUsageFlags.digitalSignature });
    await assert.rejects(given(root.pem, root.privateKey), error('WEFT_CERTS_CA_INVALID', /keyCertSign/));
  });

  test('is refused with the key of another', async () => {
    await assert.rejects(given((await forgeRoot()).pem, (await forgeRoot()).privateKey), error('WEFT_CERTS_CA_INVALID', /does not belong/));
  });

  test('is refused when it has expired', async () => {
    const root = await forgeRoot({ notAfter: Date.now() - 5000 });
    await assert.rejects(given(root.pem, root.privateKey), error('WEFT_CERTS_CA_EXPIRED'));
  });

  test('is refused when it is not yet valid', async () => {
    const root = await forgeRoot({ notBefore: Date.now() + 60_000 });
    await assert.rejects(given(root.pem, root.privateKey), error('WEFT_CERTS_CA_INVALID', /not valid before/));
  });

  test('may have an RSA key of 2048 bits, and its SVIDs verify', async () => {
    const root = await forgeRoot(rsaRoot(2048));
    for (const type of ['pkcs8', 'pkcs1'] as const) {
      const key = createPrivateKey(root.privateKey).export({ type, format: 'pem' }).toString();
      const { certificateChain } = await (await given(root.pem, key)).issue(request.csr, { identity: IDENTITY, ttlSeconds: 60 });
      assert.equal(new SvidVerifier(bundlesOf({ [TRUST_DOMAIN]: root.pem })).verify(certificatesFromPem(certificateChain)).text, IDENTITY);
    }
  });

  test('is refused with an RSA key of 1024 bits', async () => {
    const root = await forgeRoot(rsaRoot(1024));
    await assert.rejects(given(root.pem, root.privateKey), error('WEFT_CERTS_CA_INVALID', /type rsa \(1024\)/));
  });

  test('may have an encrypted key, in the form of PKCS#8 and in the older one of OpenSSL', async () => {
    const root = await forgeRoot();
    for (const type of ['pkcs8', 'sec1'] as const) {
      const key = createPrivateKey(root.privateKey).export({ type, format: 'pem', cipher: 'aes-256-cbc', passphrase: 'x' }).toString();
      const options = { certificate: root.pem, key, trustDomain: TRUST_DOMAIN };
      assert.equal((await CertificateAuthority.fromPem({ ...options, passphrase: 'x' })).roots, root.pem);
      await assert.rejects(CertificateAuthority.fromPem({ ...options, passphrase: 'y' }), error('WEFT_CERTS_PASSPHRASE', /wrong/));
      await assert.rejects(CertificateAuthority.fromPem(options), error('WEFT_CERTS_PASSPHRASE', /no passphrase/));
    }
  });

  test('is refused when an intermediate comes without the certificates above it', async () => {
    const root = await forgeRoot();
    const signer = await forge({ issuer: root, subject: 'CN=signer', uris: [], ca: true });
    await assert.rejects(given(signer.pem, signer.privateKey), error('WEFT_CERTS_CA_INVALID', /issuer is missing/));
  });

  test('is refused when its chain is out of order', async () => {
    const root = await forgeRoot();
    const stranger = await forgeRoot({ subject: 'CN=stranger' });
    const signer = await forge({ issuer: root, subject: 'CN=signer', uris: [], ca: true });
    await assert.rejects(given(signer.pem + stranger.pem, signer.privateKey), error('WEFT_CERTS_CA_INVALID', /not signed by the next/));
  });

  test('is refused when its names do not lead from one certificate to the next', async () => {
    const root = await forgeRoot();
    const signer = await forge({ issuer: root, issuerName: 'CN=another', subject: 'CN=signer', uris: [], ca: true });
    await assert.rejects(given(signer.pem + root.pem, signer.privateKey), error('WEFT_CERTS_CA_INVALID', /not signed by the next/));
  });

  test('is refused when its SPIFFE ID has a path', async () => {
    const root = await forgeRoot({ uris: ['spiffe://example.org/ca'] });
    await assert.rejects(given(root.pem, root.privateKey), error('WEFT_CERTS_CA_INVALID', /has a path/));
  });

  test('is refused when nobody says for which trust domain it is', async () => {
    const root = await forgeRoot({ uris: [] });
    await assert.rejects(
      CertificateAuthority.fromPem({ certificate: root.pem, key: root.privateKey }),
      error('WEFT_CERTS_CA_TRUST_DOMAIN'),
    );
  });

  test('is refused when the PEM text holds no certificate', async () => {
    await assert.rejects(given('hello', (await forgeRoot()).privateKey), error('WEFT_CERTS_CA_INVALID', /no certificate/));
  });
});

describe('an issued SVID', () => {
  test('follows every issuer rule of X509-SVID.md', async () => {
    const { fields } = await issueAndRead();
    assert.deepEqual(
      fields.uris.map((uri) => Buffer.from(uri).toString()),
      [IDENTITY],
    );
    assert.equal(fields.subjectIsEmpty, true);
    assert.equal(fields.subjectAltNameCritical, true);
    assert.equal(fields.isCa, false);
    assert.equal(fields.keyUsage, KEY_USAGE.digitalSignature);
    assert.equal(fields.keyUsageCritical, true);
    assert.deepEqual(fields.extendedKeyUsage, ['1.3.6.1.5.5.7.3.1', '1.3.6.1.5.5.7.3.2']);
  });

  test('has the key of the request', async () => {
    assert.equal((await issueAndRead()).certificate.checkPrivateKey(keyObject(request.privateKey)), true);
  });

  test('is valid from a little before now to the time asked for', async () => {
    const before = Date.now();
    const { issued, fields } = await issueAndRead({ ttlSeconds: 3600 });
    assert.equal(fields.notBefore, issued.notBefore);
    assert.equal(fields.notAfter, issued.notAfter);
    assert.ok(Math.abs(fields.notBefore - (before - BACKDATE_SECONDS * 1000)) < 3000);
    assert.ok(Math.abs(fields.notAfter - (before + 3_600_000)) < 3000);
  });

  test('never outlives any certificate of its authority', async () => {
    const root = await forgeRoot({ notAfter: Date.now() + 50_000 });
    const signer = await forge({ issuer: root, subject: 'CN=signer', uris: [], ca: true, notAfter: Date.now() + 90_000 });
    const ca = await CertificateAuthority.fromPem({
      certificate: signer.pem + root.pem,
      key: signer.privateKey,
      trustDomain: TRUST_DOMAIN,
    });
    const { fields } = await issueAndRead({ ttlSeconds: 3600 }, ca);
    assert.equal(fields.notAfter, ca.notAfter);
    assert.ok(fields.notAfter <= Date.now() + 50_000);
  });

  test('has a positive serial number of 16 bytes, never the same twice', async () => {
    const serials = await Promise.all(Array.from({ length: 20 }, async () => (await issueAndRead()).certificate.serialNumber));
    assert.equal(new Set(serials).size, 20);
    for (const serial of serials) assert.match(serial, /^[4-7][0-9A-F]{31}$/);
  });

  test('ignores everything in the request but its key', async () => {
    const csr = await forgeRequest({ subject: 'CN=admin', uris: ['spiffe://example.org/ns/kube-system/sa/admin'], ca: true });
    const { fields } = await issueAndRead({}, authority, csr);
    assert.deepEqual(
      fields.uris.map((uri) => Buffer.from(uri).toString()),
      [IDENTITY],
    );
    assert.equal(fields.subjectIsEmpty, true);
    assert.equal(fields.isCa, false);
  });

  test('carries the DNS names that were asked for', async () => {
    const { certificate } = await issueAndRead({ dns: ['cart.shop.svc', 'cart'] });
    assert.equal(certificate.subjectAltName, `URI:${IDENTITY}, DNS:cart.shop.svc, DNS:cart`);
  });

  test('may have an ID of 2048 bytes and no longer one', async () => {
    const longest = `spiffe://example.org/${'a'.repeat(2027)}`;
    assert.equal(Buffer.from((await issueAndRead({ identity: longest })).fields.uris[0] as Uint8Array).toString(), longest);
    await assert.rejects(issueAndRead({ identity: `${longest}a` }), error('WEFT_IDENTITY_INVALID'));
  });
});

describe('the authority refuses to issue', () => {
  test('for another trust domain', async () => {
    await assert.rejects(issue({ identity: 'spiffe://other.example/ns/a/sa/b' }), error('WEFT_CERTS_IDENTITY_REFUSED', /outside/));
  });

  test('for the trust domain itself', async () => {
    await assert.rejects(issue({ identity: 'spiffe://example.org' }), error('WEFT_CERTS_IDENTITY_REFUSED', /not a workload/));
  });

  test('for what is no SPIFFE ID', async () => {
    await assert.rejects(issue({ identity: 'spiffe://example.org/ns/../sa/b' }), error('WEFT_IDENTITY_INVALID'));
  });

  test('for a request that is not signed by its own key', async () => {
    const csr = Uint8Array.from(request.csr);
    // The last byte of the signature's second number.
    csr[csr.length - 1] = (csr.at(-1) as number) ^ 1;
    await assert.rejects(issue({}, csr), error('WEFT_CERTS_CSR', /not signed/));
  });

  test('for a request whose key was exchanged', async () => {
    const other = await createSigningRequest(IDENTITY);
    const at = Buffer.from(request.csr).indexOf(Buffer.from('034200', 'hex'));
    const otherAt = Buffer.from(other.csr).indexOf(Buffer.from('034200', 'hex'));
    const csr = Buffer.from(request.csr);
    csr.set(other.csr.subarray(otherAt, otherAt + 68), at);
    await assert.rejects(issue({}, csr), error('WEFT_CERTS_CSR', /not signed/));
  });

  test('for bytes that are no request', async () => {
    for (const csr of [new Uint8Array(), Uint8Array.of(0x30, 0), Buffer.from('hello'), new Uint8Array(20_000)])
      await assert.rejects(issue({}, csr), error('WEFT_CERTS_CSR'));
  });

  test('for an RSA key of 1024 bits', async () => {
    const keyAlgorithm = { name: 'RSASSA-PKCS1-v1_5', modulusLength: 1024, publicExponent: Uint8Array.of(1, 0, 1), hash: 'SHA-256' };
    await assert.rejects(issue({}, await forgeRequest({ keyAlgorithm })), error('WEFT_CERTS_WEAK_KEY'));
  });

  test('for a life that is no life', async () => {
    for (const ttlSeconds of [0, -1, Number.NaN, Number.POSITIVE_INFINITY, 91 * 24 * 3600])
      await assert.rejects(issue({ ttlSeconds }), error('WEFT_CERTS_TTL'));
  });

  test('for what is no DNS name', async () => {
    for (const name of ['', 'A.example', 'a b', '*.example', 'a..b', '-a', 'a'.repeat(64), 'a\0b'])
      await assert.rejects(issue({ dns: [name] }), error('WEFT_CERTS_DNS_NAME'));
  });

  test('once it has expired itself', async () => {
    let now = Date.now();
    const ca = new CertificateAuthority(await createMaterial(TRUST_DOMAIN, 60, now), TRUST_DOMAIN, () => now);
    now += 61_000;
    await assert.rejects(ca.issue(request.csr, { identity: IDENTITY, ttlSeconds: 60 }), error('WEFT_CERTS_CA_EXPIRED'));
  });
});

test('an error never shows the key', async () => {
  const { privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  const key = privateKey.export({ type: 'pkcs8', format: 'pem' }).toString();
  const broken = key.replace('PRIVATE KEY', 'PRIVAT KEY');
  await assert.rejects(CertificateAuthority.fromPem({ certificate: (await forgeRoot()).pem, key: broken }), (thrown: Error) => {
    assert.ok(!JSON.stringify([thrown.message, thrown.stack, String(thrown.cause)]).includes(key.slice(40, 80)));
    return true;
  });
});
