import assert from 'node:assert/strict';
import { X509Certificate } from 'node:crypto';
import { before, describe, test } from 'node:test';
import { MAX_CHAIN_CERTIFICATES, SvidVerifier } from '../../../certs/svid/peer-verifier.ts';
import { publicKeyDigest } from '../../../certs/x509/public-key.ts';
import type { TrustBundle } from '../../../src/model/data-plane.ts';
import {
  bundlesOf,
  ExtendedKeyUsage,
  type Forged,
  type ForgeOptions,
  forge,
  forgeRoot,
  IDENTITY,
  KeyUsageFlags,
  rawExtension,
  rawUriSan,
  TRUST_DOMAIN,
} from './forge.ts';

let root: Forged;
let foreignRoot: Forged;
let verifier: SvidVerifier;

before(async () => {
  root = await forgeRoot();
  foreignRoot = await forgeRoot({ subject: 'CN=foreign root', uris: ['spiffe://foreign.example'] });
  verifier = new SvidVerifier(bundlesOf({ [TRUST_DOMAIN]: root.pem, 'foreign.example': foreignRoot.pem }));
});

async function verifyLeaf(options: ForgeOptions): Promise<string> {
  const leaf = await forge({ issuer: root, ...options });
  return verifier.verify([leaf.der]).text;
}

function refused(reason: string, message?: RegExp): object {
  return { name: 'IdentityError', code: `WEFT_IDENTITY_PEER_${reason}`, ...(message === undefined ? {} : { message }) };
}

describe('an X.509-SVID is accepted', () => {
  test('when it follows every rule, and its namespace and service account are read', async () => {
    const leaf = await forge({ issuer: root });
    const id = verifier.verify([leaf.der]);
    assert.equal(id.text, IDENTITY);
    assert.equal(id.namespace, 'shop');
    assert.equal(id.serviceAccount, 'cart');
  });

  test('with a path that is not of Kubernetes form, without a namespace', async () => {
    const leaf = await forge({ issuer: root, uris: ['spiffe://example.org/db/primary'] });
    const id = verifier.verify([leaf.der]);
    assert.equal(id.namespace, null);
    assert.equal(id.path, '/db/primary');
  });

  test('with DNS, IP and e-mail SANs beside its one URI', async () => {
    const otherNames = [
      { type: 'dns' as const, value: 'cart.shop.svc' },
      { type: 'ip' as const, value: '10.0.0.1' },
      { type: 'email' as const, value: 'cart@example.org' },
    ];
    assert.equal(await verifyLeaf({ otherNames }), IDENTITY);
  });

  test('without an extended key usage', async () => {
    assert.equal(await verifyLeaf({ extendedKeyUsage: null }), IDENTITY);
  });

  test('with keyEncipherment and keyAgreement beside digitalSignature, as SPIRE issues', async () => {
    assert.equal(
      await verifyLeaf({ keyUsage: KeyUsageFlags.digitalSignature | KeyUsageFlags.keyEncipherment | KeyUsageFlags.keyAgreement }),
      IDENTITY,
    );
  });

  test('with an ID of exactly 2048 bytes', async () => {
    const id = `spiffe://example.org/${'a'.repeat(2048 - 21)}`;
    assert.equal(id.length, 2048);
    assert.equal(await verifyLeaf({ uris: [id] }), id);
  });

  test('of a trust domain of exactly 255 bytes, or one that looks like an IPv4 address', async () => {
    for (const trustDomain of ['a'.repeat(255), '10.0.0.1']) {
      const own = await forgeRoot({ uris: [`spiffe://${trustDomain}`] });
      const leaf = await forge({ issuer: own, uris: [`spiffe://${trustDomain}/ns/shop/sa/cart`] });
      assert.equal(new SvidVerifier(bundlesOf({ [trustDomain]: own.pem })).verify([leaf.der]).trustDomain, trustDomain);
    }
  });

  test('with path segments that begin with dots and are more than one or two of them', async () => {
    assert.equal(await verifyLeaf({ uris: ['spiffe://example.org/.../.well-known'] }), 'spiffe://example.org/.../.well-known');
  });

  test('through intermediates that the peer sent, in any order', async () => {
    const upper = await forge({ issuer: root, subject: 'CN=upper', uris: [], ca: true });
    const lower = await forge({ issuer: upper, subject: 'CN=lower', uris: [], ca: true });
    const leaf = await forge({ issuer: lower });
    assert.equal(verifier.verify([leaf.der, upper.der, lower.der]).text, IDENTITY);
  });

  test('from an issuer whose clock is a few seconds ahead', async () => {
    assert.equal(await verifyLeaf({ notBefore: Date.now() + 5000 }), IDENTITY);
  });

  test('with an unknown extension that is not critical', async () => {
    assert.equal(await verifyLeaf({ extra: [rawExtension('1.2.3.4', false, Uint8Array.of(5, 0))] }), IDENTITY);
  });

  test('when another intermediate of the same name comes first', async () => {
    const signer = await forge({ issuer: root, subject: 'CN=twin', uris: [], ca: true });
    const twin = await forge({ issuer: root, subject: 'CN=twin', uris: [], ca: true });
    const leaf = await forge({ issuer: signer });
    assert.equal(verifier.verify([leaf.der, twin.der, signer.der]).text, IDENTITY);
  });

  test('by a second path when the first one it fits is expired', async () => {
    const signer = await forge({ issuer: root, subject: 'CN=renewed', uris: [], ca: true });
    const leaf = await forge({ issuer: signer });
    const expired = await forge({
      issuer: root,
      subject: 'CN=renewed',
      uris: [],
      ca: true,
      keys: signer.keys,
      notAfter: Date.now() - 5000,
    });
    assert.equal(verifier.verify([leaf.der, expired.der, signer.der]).text, IDENTITY);
  });
});

describe('a peer is refused', () => {
  test('without a certificate', () => {
    assert.throws(() => verifier.verify([]), refused('NO_CERTIFICATE'));
  });

  test('without a URI SAN', async () => {
    await assert.rejects(verifyLeaf({ uris: [], otherNames: [{ type: 'dns', value: 'example.org' }] }), refused('SAN', /no URI SAN/));
  });

  test('with two URI SANs, though both are SPIFFE IDs', async () => {
    await assert.rejects(verifyLeaf({ uris: [IDENTITY, 'spiffe://example.org/ns/shop/sa/admin'] }), refused('SAN', /2 URI SANs/));
  });

  test('with a second URI SAN that is no SPIFFE ID', async () => {
    await assert.rejects(verifyLeaf({ uris: [IDENTITY, 'https://example.org/'] }), refused('SAN', /2 URI SANs/));
  });

  test('with a NUL in its URI', async () => {
    const san = rawUriSan(Buffer.from('spiffe://example.org/ns/shop/sa/cart\0/evil'));
    await assert.rejects(verifyLeaf({ uris: [], extra: [san] }), refused('SAN', /printable/));
  });

  for (const [what, character] of [
    ['a line feed', '\n'],
    ['an escape character', '\x1b'],
    ['a delete character', '\x7f'],
    ['a space', ' '],
  ] as const) {
    test(`with ${what} in its URI`, async () => {
      const san = rawUriSan(Buffer.from(`spiffe://example.org/ns/shop/sa/cart${character}`));
      await assert.rejects(verifyLeaf({ uris: [], extra: [san] }), refused('SAN', /printable/));
    });
  }

  test('with bytes beyond ASCII in its URI', async () => {
    await assert.rejects(verifyLeaf({ uris: [], extra: [rawUriSan(Buffer.from('spiffe://example.org/é'))] }), refused('SAN', /printable/));
  });

  for (const [what, id] of [
    ['with another scheme', 'https://example.org/ns/shop/sa/cart'],
    ['with an upper-case scheme', 'SPIFFE://example.org/ns/shop/sa/cart'],
    ['with an upper-case trust domain', 'spiffe://Example.org/ns/shop/sa/cart'],
    ['with a port', 'spiffe://example.org:443/ns/shop/sa/cart'],
    ['with a query', 'spiffe://example.org/ns/shop/sa/cart?x'],
    ['with an empty segment', 'spiffe://example.org//ns/shop/sa/cart'],
    ['with a trailing slash', 'spiffe://example.org/ns/shop/sa/cart/'],
    ['with a percent escape', 'spiffe://example.org/ns/shop/sa/c%61rt'],
    ['with a percent escape in its trust domain', 'spiffe://ex%61mple.org/ns/shop/sa/cart'],
    ['with a segment of one dot', 'spiffe://example.org/ns/./sa/cart'],
    ['with a segment of two dots', 'spiffe://example.org/ns/shop/../admin'],
    ['with a user', 'spiffe://root@example.org/ns/shop/sa/cart'],
    ['with a fragment', 'spiffe://example.org/ns/shop/sa/cart#x'],
    ['with an IPv6 address as trust domain', 'spiffe://[::1]/ns/shop/sa/cart'],
    ['without a trust domain', 'spiffe:///ns/shop/sa/cart'],
    ['with a trust domain of 256 bytes', `spiffe://${'a'.repeat(256)}/ns/shop/sa/cart`],
    ['without a path', 'spiffe://example.org'],
    ['with only a slash as path', 'spiffe://example.org/'],
    ['longer than 2048 bytes', `spiffe://example.org/${'a'.repeat(2028)}`],
  ] as const) {
    test(`whose ID is ${what}`, async () => {
      await assert.rejects(verifyLeaf({ uris: [id] }), refused('SAN'));
    });
  }

  test('after its certificate expired, to the second', async () => {
    const notAfter = Math.floor(Date.now() / 1000) * 1000 + 60_000;
    const leaf = await forge({ issuer: root, notAfter });
    const at = (now: number): SvidVerifier => new SvidVerifier(bundlesOf({ [TRUST_DOMAIN]: root.pem }), { now: () => now });
    assert.equal(at(notAfter).verify([leaf.der]).text, IDENTITY);
    assert.throws(() => at(notAfter + 1).verify([leaf.der]), refused('EXPIRED'));
  });

  test('before its certificate is valid', async () => {
    await assert.rejects(verifyLeaf({ notBefore: Date.now() + 60_000 }), refused('NOT_YET_VALID'));
  });

  test('that authenticates with a CA certificate', async () => {
    await assert.rejects(verifyLeaf({ ca: true, keyUsage: KeyUsageFlags.digitalSignature }), refused('CA'));
    assert.throws(() => verifier.verify([root.der]), refused('CA'));
  });

  test('without a keyUsage', async () => {
    await assert.rejects(verifyLeaf({ keyUsage: null }), refused('KEY_USAGE', /no keyUsage/));
  });

  test('without digitalSignature', async () => {
    await assert.rejects(verifyLeaf({ keyUsage: KeyUsageFlags.keyAgreement }), refused('KEY_USAGE', /lacks digitalSignature/));
  });

  test('that may sign certificates', async () => {
    await assert.rejects(
      verifyLeaf({ keyUsage: KeyUsageFlags.digitalSignature | KeyUsageFlags.keyCertSign }),
      refused('KEY_USAGE', /may sign/),
    );
  });

  test('that may sign CRLs', async () => {
    await assert.rejects(
      verifyLeaf({ keyUsage: KeyUsageFlags.digitalSignature | KeyUsageFlags.cRLSign }),
      refused('KEY_USAGE', /may sign/),
    );
  });

  for (const usage of [ExtendedKeyUsage.serverAuth, ExtendedKeyUsage.clientAuth, ExtendedKeyUsage.codeSigning]) {
    test(`whose extended key usage is ${usage} alone`, async () => {
      await assert.rejects(verifyLeaf({ extendedKeyUsage: [usage] }), refused('KEY_USAGE', /extKeyUsage/));
    });
  }

  test('with an unknown critical extension', async () => {
    await assert.rejects(verifyLeaf({ extra: [rawExtension('1.2.3.4', true, Uint8Array.of(5, 0))] }), refused('CHAIN', /1\.2\.3\.4/));
  });

  test('of a trust domain without a bundle', async () => {
    await assert.rejects(verifyLeaf({ uris: ['spiffe://unknown.example/ns/a/sa/b'] }), refused('TRUST_DOMAIN', /unknown\.example/));
  });

  test('when a root of another trust domain signed it, though that root is trusted for its own', async () => {
    await assert.rejects(verifyLeaf({ issuer: foreignRoot }), refused('CHAIN'));
    await assert.rejects(verifyLeaf({ uris: ['spiffe://foreign.example/ns/a/sa/b'] }), refused('CHAIN'));
  });

  test('when its bundle is empty, which revokes everything', async () => {
    const leaf = await forge({ issuer: root });
    assert.throws(() => new SvidVerifier(bundlesOf({ [TRUST_DOMAIN]: '' })).verify([leaf.der]), refused('TRUST_DOMAIN', /revokes/));
  });

  test('when its issuer is not called as the root is, though the root signed it', async () => {
    await assert.rejects(verifyLeaf({ issuerName: 'CN=another' }), refused('CHAIN'));
  });

  test('when it signed itself', async () => {
    const leaf = await forge();
    assert.throws(() => verifier.verify([leaf.der]), refused('CHAIN'));
  });

  test('when it brings its own root of the same name', async () => {
    const impostor = await forgeRoot();
    const leaf = await forge({ issuer: impostor });
    assert.throws(() => verifier.verify([leaf.der, impostor.der]), refused('CHAIN'));
  });

  test('when a leaf signed it', async () => {
    const workload = await forge({ issuer: root, subject: 'CN=leaf' });
    const leaf = await forge({ issuer: workload });
    assert.throws(() => verifier.verify([leaf.der, workload.der]), refused('CHAIN', /not a CA/));
  });

  test('when an intermediate may not sign certificates', async () => {
    const intermediate = await forge({ issuer: root, subject: 'CN=i', uris: [], ca: true, keyUsage: KeyUsageFlags.cRLSign });
    const leaf = await forge({ issuer: intermediate });
    assert.throws(() => verifier.verify([leaf.der, intermediate.der]), refused('CHAIN', /keyCertSign/));
  });

  test('when an intermediate expired', async () => {
    const intermediate = await forge({ issuer: root, subject: 'CN=i', uris: [], ca: true, notAfter: Date.now() - 5000 });
    const leaf = await forge({ issuer: intermediate });
    assert.throws(() => verifier.verify([leaf.der, intermediate.der]), refused('EXPIRED', /intermediate/));
  });

  test('when the root expired', async () => {
    const old = await forgeRoot({ notAfter: Date.now() - 5000 });
    const leaf = await forge({ issuer: old });
    assert.throws(() => new SvidVerifier(bundlesOf({ [TRUST_DOMAIN]: old.pem })).verify([leaf.der]), refused('EXPIRED', /root/));
  });

  test('when there are more intermediates than a path length allows', async () => {
    const upper = await forge({ issuer: root, subject: 'CN=upper', uris: [], ca: true, pathLength: 0 });
    const lower = await forge({ issuer: upper, subject: 'CN=lower', uris: [], ca: true });
    const direct = await forge({ issuer: upper });
    const deep = await forge({ issuer: lower });
    assert.equal(verifier.verify([direct.der, upper.der]).text, IDENTITY);
    assert.throws(() => verifier.verify([deep.der, lower.der, upper.der]), refused('CHAIN', /allows 0 intermediates/));
  });

  test('when the root has a path length of 0 and there is an intermediate', async () => {
    const narrow = await forgeRoot({ pathLength: 0 });
    const intermediate = await forge({ issuer: narrow, subject: 'CN=i', uris: [], ca: true });
    const leaf = await forge({ issuer: intermediate });
    const direct = await forge({ issuer: narrow });
    const own = new SvidVerifier(bundlesOf({ [TRUST_DOMAIN]: narrow.pem }));
    assert.equal(own.verify([direct.der]).text, IDENTITY);
    assert.throws(() => own.verify([leaf.der, intermediate.der]), refused('CHAIN', /allows 0/));
  });

  test('when an intermediate has name constraints, which are not evaluated', async () => {
    const constraints = rawExtension('2.5.29.30', false, Uint8Array.of(0x30, 0));
    const intermediate = await forge({ issuer: root, subject: 'CN=i', uris: [], ca: true, extra: [constraints] });
    const leaf = await forge({ issuer: intermediate });
    assert.throws(() => verifier.verify([leaf.der, intermediate.der]), refused('CHAIN', /not understood/));
  });

  test('when an intermediate is limited to code signing', async () => {
    const intermediate = await forge({
      issuer: root,
      subject: 'CN=i',
      uris: [],
      ca: true,
      extendedKeyUsage: [ExtendedKeyUsage.codeSigning],
    });
    const leaf = await forge({ issuer: intermediate });
    assert.throws(() => verifier.verify([leaf.der, intermediate.der]), refused('CHAIN', /extended key usages/));
  });

  test('when the chain is longer than allowed', async () => {
    const leaf = await forge({ issuer: root });
    const chain = Array.from({ length: MAX_CHAIN_CERTIFICATES + 1 }, () => leaf.der);
    assert.throws(() => verifier.verify(chain), refused('CHAIN', /more than/));
  });

  test('within a bounded number of signature checks, when intermediates go in circles', async () => {
    // All have one key and one name: each signs each, and none leads to a root.
    const first = await forge({ subject: 'CN=a', uris: [], ca: true });
    const circle = await Promise.all(
      Array.from({ length: 6 }, () => forge({ issuer: first, subject: 'CN=a', uris: [], ca: true, keys: first.keys })),
    );
    const leaf = await forge({ issuer: first });
    assert.throws(() => verifier.verify([leaf.der, first.der, ...circle.map((one) => one.der)]), refused('CHAIN', /look-alike/));
  });

  test('with an RSA key of 1024 bits', async () => {
    const keyAlgorithm = { name: 'RSASSA-PKCS1-v1_5', modulusLength: 1024, publicExponent: Uint8Array.of(1, 0, 1), hash: 'SHA-256' };
    await assert.rejects(verifyLeaf({ keyAlgorithm }), refused('CHAIN', /weak/));
  });

  test('when SHA-1 was signed', async () => {
    await assert.rejects(verifyLeaf({ signingAlgorithm: { name: 'ECDSA', hash: 'SHA-1' } }), refused('CHAIN', /signed with/));
  });

  test('with bytes after its certificate', async () => {
    const leaf = await forge({ issuer: root });
    assert.throws(() => verifier.verify([Buffer.concat([leaf.der, Buffer.of(0)])]), refused('MALFORMED'));
  });

  for (const label of ['CERTIFICATE', 'X509 CERTIFICATE', 'TRUSTED CERTIFICATE']) {
    test(`when nobody signed it, and a valid ${label} is inside of it as PEM`, async () => {
      const own = await forge({ issuer: root });
      const inside = Buffer.from(`\n${own.pem.replaceAll(' CERTIFICATE', ` ${label}`)}`);
      const forged = await forge({
        issuer: await forgeRoot(),
        uris: ['spiffe://example.org/ns/shop/sa/admin'],
        extra: [rawExtension('1.2.3.4', false, inside)],
      });
      assert.throws(() => verifier.verify([forged.der]), refused('MALFORMED', /holds another certificate/));
    });
  }

  test('when its issuer is such a one', async () => {
    const signer = await forge({ issuer: root, subject: 'CN=signer', uris: [], ca: true });
    const forged = await forge({
      issuer: await forgeRoot(),
      subject: 'CN=signer',
      uris: [],
      ca: true,
      extra: [rawExtension('1.2.3.4', false, Buffer.from(`\n${signer.pem}`))],
    });
    const leaf = await forge({ issuer: signer });
    const own = new SvidVerifier(bundlesOf({ [TRUST_DOMAIN]: root.pem }));
    assert.throws(() => own.verify([leaf.der, forged.der]), { name: 'IdentityError' });
    assert.equal(own.verify([leaf.der, signer.der]).text, IDENTITY);
  });

  test('with one bit of its signature flipped', async () => {
    const leaf = await forge({ issuer: root });
    const bytes = Uint8Array.from(leaf.der);
    bytes[bytes.length - 1] = (bytes.at(-1) as number) ^ 1;
    assert.throws(() => verifier.verify([bytes]), { name: 'IdentityError' });
  });

  test('when the same extension occurs twice', async () => {
    await assert.rejects(verifyLeaf({ extra: [rawUriSan(Buffer.from(IDENTITY))] }), refused('MALFORMED', /twice/));
  });
});

describe('a chain through a revoked CA key', () => {
  const digest = (one: Forged): string => publicKeyDigest(new X509Certificate(one.der).publicKey);
  const bundle = (revokedKeys: readonly string[], sequence = 1): TrustBundle => ({
    trustDomain: TRUST_DOMAIN,
    roots: [root.der],
    revokedKeys,
    sequence,
  });

  test('is refused when it is the key of the root, though the bundle still has that', async () => {
    const leaf = await forge({ issuer: root });
    const own = new SvidVerifier({ bundle: () => bundle([digest(root)]) });
    assert.throws(() => own.verify([leaf.der]), refused('REVOKED', /the root/));
  });

  test('is refused when it is the key of an intermediate, under whatever name', async () => {
    const signer = await forge({ issuer: root, subject: 'CN=signer', uris: [], ca: true });
    const renamed = await forge({ issuer: root, subject: 'CN=renamed', uris: [], ca: true, keys: signer.keys });
    const own = new SvidVerifier({ bundle: () => bundle([digest(signer)]) });
    for (const issuer of [signer, renamed]) {
      const leaf = await forge({ issuer });
      assert.throws(() => own.verify([leaf.der, issuer.der]), refused('REVOKED', /an intermediate/));
    }
  });

  test('is passed by, when there is another path', async () => {
    const cross = await forgeRoot({ subject: 'CN=cross root', uris: [] });
    const signer = await forge({ issuer: root, subject: 'CN=signer', uris: [], ca: true });
    const byCross = await forge({ issuer: cross, subject: 'CN=signer', uris: [], ca: true, keys: signer.keys });
    const leaf = await forge({ issuer: signer });
    const own = new SvidVerifier({ bundle: () => ({ ...bundle([digest(root)]), roots: [root.der, cross.der] }) });
    assert.throws(() => own.verify([leaf.der, signer.der]), refused('REVOKED'));
    assert.equal(own.verify([leaf.der, signer.der, byCross.der]).text, IDENTITY);
  });

  test('is refused from then on, though the leaf was remembered', async () => {
    let now = bundle([]);
    const own = new SvidVerifier({ bundle: () => now });
    const leaf = await forge({ issuer: root });
    assert.equal(own.verify([leaf.der]).text, IDENTITY);
    now = bundle([digest(root)], 2);
    assert.throws(() => own.verify([leaf.der]), refused('REVOKED'));
  });

  test('of another trust domain is none of ours', async () => {
    const leaf = await forge({ issuer: root });
    const own = new SvidVerifier({
      bundle: (trustDomain) => (trustDomain === TRUST_DOMAIN ? bundle([]) : { ...bundle([digest(root)]), trustDomain }),
    });
    assert.equal(own.verify([leaf.der]).text, IDENTITY);
  });
});

describe('a verified leaf is remembered', () => {
  test('so that a resumed session, which shows the leaf alone, is verified without its intermediates', async () => {
    const own = new SvidVerifier(bundlesOf({ [TRUST_DOMAIN]: root.pem }));
    const intermediate = await forge({ issuer: root, subject: 'CN=i', uris: [], ca: true });
    const leaf = await forge({ issuer: intermediate });
    assert.throws(() => own.verify([leaf.der]), refused('CHAIN'));
    assert.equal(own.verify([leaf.der, intermediate.der]).text, IDENTITY);
    assert.equal(own.verify([leaf.der]).text, IDENTITY);
  });

  test('only until the first certificate of its path expires', async () => {
    let now = Date.now();
    const own = new SvidVerifier(bundlesOf({ [TRUST_DOMAIN]: root.pem }), { now: () => now });
    const upper = await forge({ issuer: root, subject: 'CN=upper', uris: [], ca: true, notAfter: now + 60_000 });
    const lower = await forge({ issuer: upper, subject: 'CN=lower', uris: [], ca: true });
    const leaf = await forge({ issuer: lower });
    const chain = [leaf.der, lower.der, upper.der];
    own.verify(chain);
    now += 59_000;
    assert.equal(own.verify([leaf.der]).text, IDENTITY);
    now += 2000;
    assert.throws(() => own.verify(chain), refused('EXPIRED', /intermediate/));
  });

  test('only until the bundle of its trust domain changes', async () => {
    const other = await forgeRoot({ subject: 'CN=next root' });
    let bundle: TrustBundle | null = { trustDomain: TRUST_DOMAIN, roots: [root.der], revokedKeys: [], sequence: 1 };
    const own = new SvidVerifier({ bundle: () => bundle });
    const leaf = await forge({ issuer: root });
    own.verify([leaf.der]);
    bundle = { trustDomain: TRUST_DOMAIN, roots: [root.der, other.der], revokedKeys: [], sequence: 2 };
    assert.equal(own.verify([leaf.der]).text, IDENTITY);
    bundle = { trustDomain: TRUST_DOMAIN, roots: [other.der], revokedKeys: [], sequence: 3 };
    assert.throws(() => own.verify([leaf.der]), refused('CHAIN'));
    bundle = null;
    assert.throws(() => own.verify([leaf.der]), refused('TRUST_DOMAIN'));
  });

  test('among a bounded number of others', async () => {
    const own = new SvidVerifier(bundlesOf({ [TRUST_DOMAIN]: root.pem }), { cacheSize: 4 });
    for (let i = 0; i < 10; i++) own.verify([(await forge({ issuer: root })).der]);
    assert.equal(own.cached, 4);
  });

  test('only when it was accepted', async () => {
    const own = new SvidVerifier(bundlesOf({ [TRUST_DOMAIN]: root.pem }));
    const leaf = await forge({ issuer: foreignRoot });
    assert.throws(() => own.verify([leaf.der]), refused('CHAIN'));
    assert.equal(own.cached, 0);
  });
});

describe('a leaf that comes alone, as on a resumed session, is completed', () => {
  const own = (): SvidVerifier => new SvidVerifier(bundlesOf({ [TRUST_DOMAIN]: root.pem }));
  /** The authorityKeyIdentifier by which issuers of one name are told apart. */
  const authorityKey = (byte: number): ReturnType<typeof rawExtension> =>
    rawExtension('2.5.29.35', false, Uint8Array.from([0x30, 3, 0x80, 1, byte]));

  test('with the intermediates through which another of its issuer was verified, and no others', async () => {
    const verifier = own();
    const upper = await forge({ issuer: root, subject: 'CN=upper', uris: [], ca: true });
    const lower = await forge({ issuer: upper, subject: 'CN=lower', uris: [], ca: true });
    const stray = await forge({ issuer: root, subject: 'CN=stray', uris: [], ca: true });
    verifier.verify([(await forge({ issuer: lower })).der, stray.der, upper.der, lower.der]);
    const leaf = await forge({ issuer: lower });
    assert.throws(() => verifier.verify([leaf.der]), refused('CHAIN'));
    const chain = verifier.complete(leaf.der);
    assert.deepEqual(
      chain.map((der) => Buffer.from(der)),
      [leaf.der, lower.der, upper.der].map((der) => Buffer.from(der)),
    );
    assert.equal(verifier.verify(chain).text, IDENTITY);
  });

  test('with nothing when roots sign leaves, when its issuer is unknown, when a chain was refused, and when it is no certificate', async () => {
    const verifier = own();
    const signer = await forge({ issuer: root, subject: 'CN=signer', uris: [], ca: true });
    const leaf = await forge({ issuer: signer });
    assert.throws(() => verifier.verify([leaf.der]), refused('CHAIN'));
    assert.deepEqual(verifier.complete(leaf.der), [leaf.der]);
    verifier.verify([leaf.der, signer.der]);
    const direct = await forge({ issuer: root });
    assert.deepEqual(verifier.complete(direct.der), [direct.der]);
    assert.deepEqual(verifier.complete(Buffer.from('garbage')), [Buffer.from('garbage')]);
  });

  test('with those of its own issuer, when an issuer of the same name has another key', async () => {
    const verifier = own();
    const [before, after] = await Promise.all([1, 2].map(() => forge({ issuer: root, subject: 'CN=signer', uris: [], ca: true })));
    const leaves: Forged[] = [];
    for (const [issuer, key] of [
      [before, 1],
      [after, 2],
    ] as const) {
      const leaf = await forge({ issuer: issuer as Forged, extra: [authorityKey(key)] });
      verifier.verify([leaf.der, (issuer as Forged).der]);
      leaves.push(leaf);
    }
    assert.deepEqual(
      leaves.map((leaf) => Buffer.from(verifier.complete(leaf.der)[1] as Uint8Array)),
      [before, after].map((issuer) => Buffer.from((issuer as Forged).der)),
    );
  });

  test('with none of another trust domain, whose authority may give an issuer any name', async () => {
    const foreignRoot = await forgeRoot({ subject: 'CN=foreign', uris: ['spiffe://foreign.test'] });
    const verifier = new SvidVerifier(bundlesOf({ [TRUST_DOMAIN]: root.pem, 'foreign.test': foreignRoot.pem }), { cacheSize: 8 });
    const signer = await forge({ issuer: root, subject: 'CN=signer', uris: [], ca: true });
    const imitation = await forge({ issuer: foreignRoot, subject: 'CN=signer', uris: [], ca: true });
    verifier.verify([(await forge({ issuer: signer })).der, signer.der]);
    verifier.verify([(await forge({ issuer: imitation, uris: ['spiffe://foreign.test/ns/a/sa/b'] })).der, imitation.der]);
    assert.equal(verifier.verify(verifier.complete((await forge({ issuer: signer })).der)).text, IDENTITY);
  });

  test('for a bounded number of issuers', async () => {
    const verifier = own();
    const leaves: Forged[] = [];
    for (let i = 0; i <= 256; i++) {
      const signer = await forge({ issuer: root, subject: `CN=signer ${i}`, uris: [], ca: true });
      const leaf = await forge({ issuer: signer });
      verifier.verify([leaf.der, signer.der]);
      leaves.push(leaf);
    }
    assert.deepEqual(
      [0, 1, 256].map((i) => verifier.complete((leaves[i] as Forged).der).length),
      [1, 2, 2],
    );
  });
});
