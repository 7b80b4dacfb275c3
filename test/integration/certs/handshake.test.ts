import assert from 'node:assert/strict';
import { once } from 'node:events';
import { type AddressInfo, createServer, type Server } from 'node:net';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, afterEach, before, beforeEach, describe, test } from 'node:test';
import { connect, createSecureContext, createServer as createTlsServer, type SecureContext, TLSSocket } from 'node:tls';
import { Worker } from 'node:worker_threads';
import { createMaterial } from '../../../certs/authority/authority-material.ts';
import { CertificateAuthority } from '../../../certs/authority/certificate-authority.ts';
import { SvidVerifier } from '../../../certs/svid/peer-verifier.ts';
import { certifiedKey } from '../../../certs/svid/certified-key.ts';
import { SvidManager, type SvidManagerOptions } from '../../../certs/svid/svid-manager.ts';
import { SvidTlsContexts } from '../../../certs/svid/tls-contexts.ts';
import { certificatesFromPem } from '../../../certs/x509/pem.ts';
import type { IdentityError } from '../../../src/model/identity.ts';
import { type Forged, forge, forgeRoot, pemKey } from '../../unit/certs/forge.ts';

const SERVER = 'spiffe://example.org/ns/shop/sa/cart';
const CLIENT = 'spiffe://example.org/ns/shop/sa/web';

let home: string;
let authority: CertificateAuthority;
let manager: SvidManager;
let contexts: SvidTlsContexts;
let verifier: SvidVerifier;
/** A root of our own trust domain whose key the tests have, to sign what the authority would not. */
let testRoot: Forged;
let foreignRoot: Forged;

const obtain: SvidManagerOptions['obtain'] = (wanted, ttl) =>
  certifiedKey(
    wanted,
    ttl,
    async ({ csr, identity, ttlSeconds }) => (await authority.issue(csr, { identity, ttlSeconds })).certificateChain,
  );

before(async () => {
  home = await mkdtemp(join(tmpdir(), 'weft-handshake-'));
  authority = new CertificateAuthority(await createMaterial('example.org', 3600 * 24, Date.now()), 'example.org', Date.now);
  testRoot = await forgeRoot({ subject: 'CN=test root of example.org' });
  foreignRoot = await forgeRoot({ subject: 'CN=foreign', uris: ['spiffe://foreign.example'] });
  manager = new SvidManager({ obtain });
  manager.setBundle('example.org', [...certificatesFromPem(authority.roots), testRoot.der]);
  manager.setBundle('foreign.example', [foreignRoot.der]);
  manager.ensure(SERVER);
  manager.ensure(CLIENT);
  contexts = new SvidTlsContexts(manager);
  verifier = new SvidVerifier(manager);
  await Promise.all([contexts.wait(SERVER, 5000), contexts.wait(CLIENT, 5000)]);
});

after(async () => {
  contexts[Symbol.dispose]();
  manager[Symbol.dispose]();
  await rm(home, { recursive: true, force: true });
});

/** The DER chain that a peer showed, leaf first: what a user of PeerVerifier hands it. */
function peerChain(socket: TLSSocket): Uint8Array[] {
  const chain: Uint8Array[] = [];
  for (let one = socket.getPeerX509Certificate(); one !== undefined && chain.length < 10; one = one.issuerCertificate) chain.push(one.raw);
  return chain;
}

/** What one side found out about the other: its identity, or the code of the refusal. */
function judge(socket: TLSSocket): string {
  try {
    return verifier.verify(peerChain(socket)).text;
  } catch (error) {
    return (error as IdentityError).code;
  }
}

interface Outcome {
  /** The client as the server sees it, and the reverse. */
  readonly client: string;
  readonly server: string;
  readonly protocol: string | null;
  readonly suite: string;
  readonly resumed: boolean;
  readonly session: Buffer | null;
  /** DER, as the client got it. */
  readonly serverChain: readonly Uint8Array[];
}

/** Accepts as the tunnel does: a plain socket, and TLS laid over it with the context of one identity. */
class TestServer implements AsyncDisposable {
  readonly #server: Server;
  readonly seen: string[] = [];
  readonly failures: string[] = [];

  constructor(secureContext: SecureContext) {
    this.#server = createServer((raw) => {
      const socket = new TLSSocket(raw, {
        isServer: true,
        secureContext,
        requestCert: true,
        rejectUnauthorized: false,
        ALPNProtocols: ['h2'],
      });
      socket.on('error', (error: NodeJS.ErrnoException) => this.failures.push(error.code ?? error.message));
      socket.once('secure', () => {
        this.seen.push(judge(socket));
        socket.end('.');
      });
      socket.resume();
    });
  }

  async listen(): Promise<this> {
    this.#server.listen(0, '127.0.0.1');
    await once(this.#server, 'listening');
    return this;
  }

  get port(): number {
    return (this.#server.address() as AddressInfo).port;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#server.close();
    await once(this.#server, 'close');
  }
}

async function shake(server: TestServer, secureContext: SecureContext, session: Buffer | null = null): Promise<Outcome> {
  const socket = connect({
    host: '127.0.0.1',
    port: server.port,
    secureContext,
    rejectUnauthorized: false,
    ALPNProtocols: ['h2'],
    ...(session === null ? {} : { session }),
  });
  let ticket: Buffer | null = null;
  socket.on('session', (given: Buffer) => {
    ticket = given;
  });
  await once(socket, 'secureConnect');
  const seen = judge(socket);
  const serverChain = peerChain(socket);
  const facts = { protocol: socket.getProtocol(), suite: socket.getCipher().name, resumed: socket.isSessionReused() };
  socket.resume();
  await once(socket, 'close');
  return { client: server.seen.at(-1) ?? 'nobody', server: seen, ...facts, session: ticket, serverChain };
}

function contextOf(identity: string): SecureContext {
  const context = contexts.context(identity);
  assert.ok(context !== null);
  return context;
}

function forgedContext(chain: readonly Forged[]): SecureContext {
  return createSecureContext({ key: (chain[0] as Forged).privateKey, cert: chain.map((one) => one.pem).join(''), minVersion: 'TLSv1.3' });
}

describe('a TLS handshake', () => {
  test('between two SVIDs shows each side who the other is, with TLS 1.3 and an AES-GCM suite', async () => {
    await using server = await new TestServer(contextOf(SERVER)).listen();
    const outcome = await shake(server, contextOf(CLIENT));
    assert.equal(outcome.client, CLIENT);
    assert.equal(outcome.server, SERVER);
    assert.equal(outcome.protocol, 'TLSv1.3');
    assert.match(outcome.suite, /^TLS_AES_(256|128)_GCM/);
  });

  test("passes OpenSSL's own check of the chain on both sides, as with a peer that is not Weft", async () => {
    const svid = await manager.wait(SERVER, 5000);
    const options = {
      key: pemKey(svid.privateKey),
      cert: svid.certificateChain,
      ca: authority.roots,
      requestCert: true,
      rejectUnauthorized: true,
    };
    const server = createTlsServer(options, (socket) => socket.end(String(socket.authorized)));
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    const { port } = server.address() as AddressInfo;
    const own = await manager.wait(CLIENT, 5000);
    const socket = connect({
      host: '127.0.0.1',
      port,
      key: pemKey(own.privateKey),
      cert: own.certificateChain,
      ca: authority.roots,
      checkServerIdentity: () => undefined,
    });
    const [said] = await once(socket, 'data');
    assert.equal(String(said), 'true');
    assert.equal(socket.authorized, true);
    socket.destroy();
    server.close();
    await once(server, 'close');
  });

  test('with TLS 1.2 does not happen', async () => {
    await using server = await new TestServer(contextOf(SERVER)).listen();
    const socket = connect({
      host: '127.0.0.1',
      port: server.port,
      rejectUnauthorized: false,
      minVersion: 'TLSv1.2',
      maxVersion: 'TLSv1.2',
    });
    await assert.rejects(once(socket, 'secureConnect'), { code: 'ERR_SSL_TLSV1_ALERT_PROTOCOL_VERSION' });
    assert.deepEqual(server.seen, []);
  });

  test('with ChaCha20 alone does not happen', async () => {
    await using server = await new TestServer(contextOf(SERVER)).listen();
    const socket = connect({
      host: '127.0.0.1',
      port: server.port,
      rejectUnauthorized: false,
      minVersion: 'TLSv1.3',
      ciphers: 'TLS_CHACHA20_POLY1305_SHA256',
    });
    await assert.rejects(once(socket, 'secureConnect'), { code: 'ERR_SSL_SSL/TLS_ALERT_HANDSHAKE_FAILURE' });
    assert.deepEqual(server.seen, []);
  });

  test('through an intermediate works', async () => {
    await using server = await new TestServer(contextOf(SERVER)).listen();
    const intermediate = await forge({ issuer: testRoot, subject: 'CN=i', uris: [], ca: true });
    const leaf = await forge({ issuer: intermediate, uris: [CLIENT] });
    assert.equal((await shake(server, forgedContext([leaf, intermediate]))).client, CLIENT);
  });
});

describe('a resumed session', () => {
  test('is verified again by the server, from the certificate in the ticket', async () => {
    await using server = await new TestServer(contextOf(SERVER)).listen();
    const first = await shake(server, contextOf(CLIENT));
    assert.equal(first.resumed, false);
    const second = await shake(server, contextOf(CLIENT), first.session);
    assert.equal(second.resumed, true);
    assert.equal(second.client, CLIENT);
    assert.equal(server.seen.length, 2);
  });

  test('shows the client no certificate: it is refused, unless the client verifies the chain that it kept with the session', async () => {
    await using server = await new TestServer(contextOf(SERVER)).listen();
    const first = await shake(server, contextOf(CLIENT));
    const second = await shake(server, contextOf(CLIENT), first.session);
    assert.equal(second.resumed, true);
    assert.equal(second.server, 'WEFT_IDENTITY_PEER_NO_CERTIFICATE');
    assert.equal(verifier.verify(first.serverChain).text, SERVER);
  });

  test('is refused by both sides when the trust domain is no longer trusted', async () => {
    await using server = await new TestServer(contextOf(SERVER)).listen();
    const first = await shake(server, contextOf(CLIENT));
    const roots = manager.bundle('example.org')?.roots ?? [];
    const context = contextOf(CLIENT);
    manager.setBundle('example.org', []);
    try {
      const second = await shake(server, context, first.session);
      assert.equal(second.resumed, true);
      assert.equal(second.client, 'WEFT_IDENTITY_PEER_TRUST_DOMAIN');
      assert.throws(() => verifier.verify(first.serverChain), { code: 'WEFT_IDENTITY_PEER_TRUST_DOMAIN' });
    } finally {
      manager.setBundle('example.org', roots);
    }
  });

  test('through an intermediate, of which TLS shows the leaf alone, is verified by who verified it before', async () => {
    await using server = await new TestServer(contextOf(SERVER)).listen();
    const intermediate = await forge({ issuer: testRoot, subject: 'CN=i', uris: [], ca: true });
    const context = forgedContext([await forge({ issuer: intermediate, uris: [CLIENT] }), intermediate]);
    const first = await shake(server, context);
    const second = await shake(server, context, first.session);
    assert.equal(second.resumed, true);
    assert.equal(second.client, CLIENT);
  });

  describe('is taken by another thread', () => {
    const secret = Buffer.alloc(32, 1);
    let own: SvidManager;
    beforeEach(async () => {
      own = new SvidManager({ obtain });
      own.setBundle('example.org', certificatesFromPem(authority.roots));
      own.ensure(SERVER);
      await own.wait(SERVER, 5000);
    });
    afterEach(() => own[Symbol.dispose]());

    /** Whether a session that one thread began is resumed by another, after `change`. */
    async function carried(secrets: readonly [Uint8Array, Uint8Array], change: () => unknown = () => {}): Promise<boolean> {
      using one = new SvidTlsContexts(own, { ticketSecret: secrets[0] });
      using other = new SvidTlsContexts(own, { ticketSecret: secrets[1] });
      await using stack = new AsyncDisposableStack();
      const listen = async (from: SvidTlsContexts): Promise<TestServer> =>
        stack.use(await new TestServer(from.context(SERVER) as SecureContext).listen());
      const first = await shake(await listen(one), contextOf(CLIENT));
      await change();
      return (await shake(await listen(other), contextOf(CLIENT), first.session)).resumed;
    }

    test('with the same secret', async () => {
      assert.equal(await carried([secret, Buffer.from(secret)]), true);
    });

    test('not with another secret', async () => {
      assert.equal(await carried([secret, Buffer.alloc(32, 2)]), false);
    });

    test('not after a bundle changed', async () => {
      assert.equal(await carried([secret, secret], () => own.setBundle('later.example', [foreignRoot.der])), false);
    });

    test('not after the SVID was renewed', async () => {
      const renewed = async (): Promise<void> => {
        own.forget(SERVER);
        own.ensure(SERVER);
        await own.wait(SERVER, 5000);
      };
      assert.equal(await carried([secret, secret], renewed), false);
    });
  });

  test('cannot be carried to the context of another identity', async () => {
    await using server = await new TestServer(contextOf(SERVER)).listen();
    await using other = await new TestServer(contextOf(CLIENT)).listen();
    const first = await shake(server, contextOf(CLIENT));
    const second = await shake(other, contextOf(CLIENT), first.session);
    assert.equal(second.resumed, false);
  });
});

describe('the server refuses a client', () => {
  const cases: readonly [string, string, () => Promise<SecureContext>][] = [
    ['without a certificate', 'NO_CERTIFICATE', async () => createSecureContext({ minVersion: 'TLSv1.3' })],
    [
      'with an expired certificate',
      'EXPIRED',
      async () =>
        forgedContext([await forge({ issuer: testRoot, uris: [CLIENT], notBefore: Date.now() - 60_000, notAfter: Date.now() - 1000 })]),
    ],
    ['with two URI SANs', 'SAN', async () => forgedContext([await forge({ issuer: testRoot, uris: [CLIENT, SERVER] })])],
    [
      'of an unknown trust domain',
      'TRUST_DOMAIN',
      async () => forgedContext([await forge({ issuer: testRoot, uris: ['spiffe://other.example/ns/a/sa/b'] })]),
    ],
    [
      "with an identity of ours signed by another trust domain's root",
      'CHAIN',
      async () => forgedContext([await forge({ issuer: foreignRoot, uris: [CLIENT] })]),
    ],
    ['with a self-signed certificate', 'CHAIN', async () => forgedContext([await forge({ uris: [CLIENT], subject: 'CN=self' })])],
    [
      'that shows a CA certificate',
      'CA',
      async () => forgedContext([await forge({ issuer: testRoot, uris: [CLIENT], ca: true, subject: 'CN=ca' })]),
    ],
    ['without a key usage', 'KEY_USAGE', async () => forgedContext([await forge({ issuer: testRoot, uris: [CLIENT], keyUsage: null })])],
  ];
  for (const [what, reason, make] of cases) {
    test(what, async () => {
      await using server = await new TestServer(contextOf(SERVER)).listen();
      const outcome = await shake(server, await make());
      assert.equal(outcome.client, `WEFT_IDENTITY_PEER_${reason}`);
      assert.equal(outcome.server, SERVER);
    });
  }
});

describe('the client refuses a server', () => {
  test('with an expired certificate', async () => {
    const context = forgedContext([await forge({ issuer: testRoot, uris: [SERVER], notAfter: Date.now() - 1000 })]);
    await using server = await new TestServer(context).listen();
    assert.equal((await shake(server, contextOf(CLIENT))).server, 'WEFT_IDENTITY_PEER_EXPIRED');
  });

  test('of which a web authority would approve', async () => {
    const web = await forge({ issuer: testRoot, uris: [], otherNames: [{ type: 'dns', value: 'localhost' }] });
    await using server = await new TestServer(forgedContext([web])).listen();
    assert.equal((await shake(server, contextOf(CLIENT))).server, 'WEFT_IDENTITY_PEER_SAN');
  });
});

describe('the contexts', () => {
  test('are the same object until the SVID or a bundle changes', () => {
    const context = contextOf(SERVER);
    const { generation } = contexts;
    assert.equal(contextOf(SERVER), context);
    manager.setBundle('later.example', [foreignRoot.der]);
    assert.notEqual(contextOf(SERVER), context);
    assert.ok(contexts.generation > generation);
    manager.removeBundle('later.example');
  });

  test('do not exist for an identity without an SVID', async () => {
    assert.equal(contexts.context('spiffe://example.org/ns/shop/sa/nobody'), null);
    await assert.rejects(contexts.wait('spiffe://example.org/ns/shop/sa/nobody', 20), { code: 'WEFT_IDENTITY_UNAVAILABLE' });
  });

  test('are gone when the identity is forgotten', async () => {
    const identity = 'spiffe://example.org/ns/shop/sa/brief';
    manager.ensure(identity);
    await contexts.wait(identity, 5000);
    manager.forget(identity);
    assert.equal(contexts.context(identity), null);
  });
});

test('a worker has contexts and a verifier from messages alone, and does not load the X.509 library', async () => {
  const worker = new Worker(new URL('./mirror-worker.ts', import.meta.url));
  try {
    const [asked] = await once(worker, 'message');
    assert.equal(asked, SERVER);
    // oxlint-disable-next-line unicorn/require-post-message-target-origin -- that is for windows
    worker.postMessage(manager.snapshot());
    const [answer] = await once(worker, 'message');
    assert.deepEqual(answer, { ready: true, peer: SERVER, libraries: [] });
  } finally {
    await worker.terminate();
  }
});
