import assert from 'node:assert/strict';
import { X509Certificate } from 'node:crypto';
import { connect } from 'node:net';
import { describe, test } from 'node:test';
import type { TLSSocket } from 'node:tls';
import { CertsError } from '../../../certs/errors.ts';
import { MINT_JWT_SVID, WATCH } from '../../../certs/issuance/messages.ts';
import { readCertificateFields } from '../../../certs/x509/certificate-fields.ts';
import { toPem } from '../../../certs/x509/pem.ts';
import { GRPC_STATUS, GrpcStatusError } from '../../../src/grpc/grpc-error.ts';
import { forge, forgeRequest, forgeRoot } from '../../unit/certs/forge.ts';
import { DATABASE, IssuanceWorld, PATIENCE_MS, TRUST_DOMAIN, until, WEB } from './issuance-world.ts';

const NODE_B = `spiffe://${TRUST_DOMAIN}/node/node-b`;

/** The URI SANs of a PEM certificate. */
function urisOf(pem: string | undefined): string[] {
  const { uris } = readCertificateFields(new X509Certificate(pem ?? '').raw);
  return uris.map((uri) => Buffer.from(uri).toString());
}

/** That a call ends with this status, and tells the caller no more than `says`. */
async function refused(call: Promise<unknown>, status: number, says: RegExp): Promise<void> {
  await assert.rejects(call, (error: unknown) => {
    assert.ok(error instanceof GrpcStatusError, String(error));
    assert.equal(error.status, status, error.message);
    assert.match(error.message, says);
    return true;
  });
}

describe('CreateCertificate', () => {
  test('gives a node the identity of a workload that runs there, whatever SANs the request has', async () => {
    await using world = await IssuanceWorld.start();
    const client = world.client(await world.credentials(NODE_B));
    const chain = await world.certify(client, { impersonate: WEB });
    assert.deepEqual(urisOf(chain[0]), [WEB]);
    const root = new X509Certificate(chain.at(-1) as string);
    assert.deepEqual(Buffer.from(root.raw), Buffer.from(world.authority.trust().bundle.x509Authorities[0] as Uint8Array));
    assert.ok(new X509Certificate(chain[0] as string).verify(root.publicKey));
  });

  test('works over IPv6 too', async () => {
    await using world = await IssuanceWorld.start();
    const client = world.client(await world.credentials(NODE_B), '::1');
    assert.deepEqual(urisOf((await world.certify(client))[0]), [NODE_B]);
  });

  test("refuses a node another node's workload, and tells it nothing more", async () => {
    await using world = await IssuanceWorld.start();
    const client = world.client(await world.credentials(NODE_B));
    await refused(world.certify(client, { impersonate: DATABASE }), GRPC_STATUS.PERMISSION_DENIED, /^the caller may not have this$/);
    assert.match(world.logged.join('\n'), /node-b asked for .*sa\/database, and no workload with it runs there/);
  });

  test("refuses a node another node's own identity, and one in another trust domain", async () => {
    await using world = await IssuanceWorld.start();
    const client = world.client(await world.credentials(NODE_B));
    for (const identity of [`spiffe://${TRUST_DOMAIN}/node/node-c`, 'spiffe://other.test/ns/shop/sa/web', 'web', '']) {
      await refused(world.certify(client, { impersonate: identity }), GRPC_STATUS.PERMISSION_DENIED, /^the caller may not have this$/);
    }
  });

  test('refuses who shows nothing, and a workload', async () => {
    await using world = await IssuanceWorld.start();
    await refused(world.certify(world.client()), GRPC_STATUS.UNAUTHENTICATED, /^the caller is not known$/);
    const workload = world.client(await world.credentials(WEB));
    await refused(world.certify(workload, { impersonate: WEB }), GRPC_STATUS.PERMISSION_DENIED, /^the caller may not have this$/);
    const { refused: counted } = world.counts;
    assert.deepEqual(counted, { unauthenticated: 1, not_allowed: 1, rate_limited: 0, malformed: 0, failed: 0 });
  });

  test('refuses requests that prove nothing, with the reason, and spends no token on them', async () => {
    await using world = await IssuanceWorld.start();
    const joining = world.client();
    const token = await world.authority.tokens.create({ node: 'node-b', ttlSeconds: 60 });
    const node = world.client(await world.credentials(NODE_B));
    const request = await forgeRequest({});
    const damaged = new Uint8Array(request);
    damaged[damaged.length - 1] = (damaged.at(-1) as number) ^ 1;
    const weak = await forgeRequest({
      keyAlgorithm: { name: 'RSASSA-PKCS1-v1_5', hash: 'SHA-256', modulusLength: 1024, publicExponent: new Uint8Array([1, 0, 1]) },
    });
    const wrong: readonly [string, RegExp][] = [
      ['garbage', /no PEM/],
      [toPem('CERTIFICATE REQUEST', Buffer.from('garbage')), /cannot be read/],
      [toPem('CERTIFICATE REQUEST', damaged), /own key|cannot be read/],
      [toPem('CERTIFICATE REQUEST', weak), /weak/],
    ];
    for (const [csr, says] of wrong) {
      await refused(world.certify(node, { csr }), GRPC_STATUS.INVALID_ARGUMENT, says);
      await refused(world.certify(joining, { csr, token }), GRPC_STATUS.INVALID_ARGUMENT, says);
    }
    assert.equal(world.counts.joins, 0);
    assert.deepEqual(urisOf((await world.certify(joining, { token }))[0]), [NODE_B]);
    await refused(world.certify(joining, { token }), GRPC_STATUS.UNAUTHENTICATED, /^the caller is not known$/);
  });

  test('bounds the life of what it gives', async () => {
    await using world = await IssuanceWorld.start({ service: { maxTtlSeconds: 600 } });
    const client = world.client(await world.credentials(NODE_B));
    for (const seconds of [86_400, 0, -5]) {
      const [leaf] = await world.certify(client, { seconds });
      const left = readCertificateFields(new X509Certificate(leaf as string).raw).notAfter - Date.now();
      assert.ok(left > 590_000 && left <= 600_000, `${seconds} gave ${left}`);
    }
  });

  test('stops a caller that floods it, and no other', async () => {
    await using world = await IssuanceWorld.start({ service: { perNode: { perSecond: 1, burst: 5 } } });
    const flood = world.client(await world.credentials(NODE_B));
    const results = await Promise.allSettled(Array.from({ length: 30 }, () => world.certify(flood)));
    const ended = results.map((result) => (result.status === 'fulfilled' ? 0 : (result.reason as GrpcStatusError).status));
    assert.ok(ended.filter((status) => status === 0).length <= 7, String(ended));
    assert.ok(
      ended.every((status) => status === 0 || status === GRPC_STATUS.RESOURCE_EXHAUSTED),
      String(ended),
    );
    const other = world.client(await world.credentials(`spiffe://${TRUST_DOMAIN}/node/node-c`));
    assert.equal((await world.certify(other, { impersonate: DATABASE })).length, 2);
  });

  test('goes on for a node of which a workload orders JWT-SVIDs without end', async () => {
    await using world = await IssuanceWorld.start({ service: { perNode: { perSecond: 0.01, burst: 5 } } });
    const client = world.client(await world.credentials(NODE_B));
    const ordered = await Promise.allSettled(
      Array.from({ length: 20 }, (_, index) =>
        client.unary(MINT_JWT_SVID, { identity: WEB, audience: [`audience-${index}`] }, { timeoutMs: PATIENCE_MS }),
      ),
    );
    assert.equal(ordered.filter(({ status }) => status === 'fulfilled').length, 5);
    assert.equal((await world.certify(client, { impersonate: WEB })).length, 2);
  });

  test('bounds how often an address may guess tokens', async () => {
    await using world = await IssuanceWorld.start({ service: { perAddress: { perSecond: 0.01, burst: 3 } } });
    const token = await world.authority.tokens.create({ node: 'node-b', ttlSeconds: 60 });
    const client = world.client();
    for (let guess = 0; guess < 3; guess++) {
      await refused(world.certify(client, { token: 'weft-join-1.x.y' }), GRPC_STATUS.UNAUTHENTICATED, /^the caller is not known$/);
    }
    await refused(world.certify(client, { token }), GRPC_STATUS.RESOURCE_EXHAUSTED, /too many/);
  });
});

describe('joining by token', () => {
  test('a token works once, under any number of attempts at once', async () => {
    await using world = await IssuanceWorld.start();
    const token = await world.authority.tokens.create({ node: 'node-b', ttlSeconds: 60 });
    const attempts = await Promise.allSettled(Array.from({ length: 8 }, () => world.certify(world.client(), { token })));
    assert.equal(attempts.filter(({ status }) => status === 'fulfilled').length, 1);
    assert.match(world.logged.join('\n'), /unknown, or was used before/);
  });

  test('a token that joins once impersonates nobody, and still joins', async () => {
    await using world = await IssuanceWorld.start();
    const token = await world.authority.tokens.create({ node: 'node-b', ttlSeconds: 60 });
    await refused(
      world.certify(world.client(), { token, impersonate: WEB }),
      GRPC_STATUS.PERMISSION_DENIED,
      /^the caller may not have this$/,
    );
    assert.deepEqual(urisOf((await world.certify(world.client(), { token }))[0]), [NODE_B]);
  });

  test('a token outlasts that its node asks too often, and that the authority cannot write', async () => {
    await using world = await IssuanceWorld.start({ service: { perNode: { perSecond: 0.01, burst: 1 } } });
    await world.certify(world.client(await world.credentials(NODE_B)));
    const token = await world.authority.tokens.create({ node: 'node-b', ttlSeconds: 60 });
    await refused(world.certify(world.client(), { token }), GRPC_STATUS.RESOURCE_EXHAUSTED, /too many/);
    await world.stopServer();
    await world.startServer();
    const issue = world.authority.issue.bind(world.authority);
    world.authority.issue = () => Promise.reject(new CertsError('WEFT_CERTS_DIRECTORY', 'no space left on device'));
    await refused(world.certify(world.client(), { token }), GRPC_STATUS.UNAVAILABLE, /^the authority cannot answer now$/);
    world.authority.issue = issue;
    assert.deepEqual(urisOf((await world.certify(world.client(), { token }))[0]), [NODE_B]);
  });

  test('a reusable token is the credential of a ztunnel: it impersonates what runs on its node', async () => {
    await using world = await IssuanceWorld.start();
    const token = await world.authority.tokens.create({ node: 'node-b', ttlSeconds: 60, reusable: true });
    const client = world.client();
    for (let request = 0; request < 2; request++)
      assert.deepEqual(urisOf((await world.certify(client, { token, impersonate: WEB }))[0]), [WEB]);
    await refused(world.certify(client, { token, impersonate: DATABASE }), GRPC_STATUS.PERMISSION_DENIED, /may not/);
  });

  test('malformed and foreign tokens are refused, with the reason in the log alone', async () => {
    await using world = await IssuanceWorld.start();
    await using other = await IssuanceWorld.start();
    const foreign = await other.authority.tokens.create({ node: 'node-b', ttlSeconds: 60 });
    for (const token of [foreign, foreign.slice(0, -3), 'x', `${foreign} ${foreign}`]) {
      await refused(world.certify(world.client(), { token }), GRPC_STATUS.UNAUTHENTICATED, /^the caller is not known$/);
    }
    const log = world.logged.join('\n');
    assert.match(log, /unknown, or was used before/);
    assert.match(log, /not a join token/);
    assert.equal(log.includes(foreign), false);
  });
});

describe('the connection', () => {
  test('ends with a client certificate of another authority, and with a self-signed one', async () => {
    await using world = await IssuanceWorld.start();
    const strangers = await forgeRoot();
    const foreign = await forge({ issuer: strangers });
    const selfSigned = await forge({});
    for (const { pem, privateKey } of [foreign, selfSigned]) {
      await assert.rejects(world.certify(world.client({ cert: pem, key: privateKey })), { status: GRPC_STATUS.UNAVAILABLE });
    }
    assert.match(world.logged.join('\n'), /the certificate of a client of the issuance service is refused/);
  });

  test('shows the names it was given, an SVID, and the root', async () => {
    await using world = await IssuanceWorld.start();
    const socket = await world.dial();
    const leaf = socket.getPeerX509Certificate() as X509Certificate;
    assert.equal(leaf.checkHost('ca.test'), 'ca.test');
    assert.deepEqual(urisOf(leaf.toString()), [`spiffe://${TRUST_DOMAIN}/weft-ca`]);
    assert.equal(leaf.issuerCertificate?.ca, true);
  });

  test('shows a certificate that lives no longer than what others get: an old root is kept for as long', async () => {
    await using world = await IssuanceWorld.start({ service: { maxTtlSeconds: 60 } });
    const leaf = (await world.dial()).getPeerX509Certificate() as X509Certificate;
    assert.ok(Date.parse(leaf.validTo) - Date.now() <= 60_000);
  });

  test('is never a resumed one', async () => {
    await using world = await IssuanceWorld.start();
    const credentials = await world.credentials(NODE_B);
    const first = await world.dial(credentials);
    const session = await new Promise<Buffer>((resolve) => first.once('session', resolve));
    const second = await world.dial({ ...credentials, session });
    assert.equal(second.isSessionReused(), false);
    assert.equal(second.alpnProtocol, 'h2');
  });

  test('half-open ones are bounded, and end by themselves', async () => {
    await using world = await IssuanceWorld.start({ connectionLimits: { handshakes: 4, handshakeTimeoutMs: 300 } });
    const sockets = Array.from({ length: 12 }, (_, index) => {
      const socket = connect(world.server.port, '127.0.0.1');
      socket.on('error', () => {});
      if (index % 2 === 0) socket.write(Buffer.from([0x16, 0x03, 0x01, 0x02, 0x00]));
      return socket;
    });
    const closed = Promise.all(sockets.map((socket) => new Promise((resolve) => socket.once('close', resolve).resume())));
    // Who means it gets through meanwhile.
    assert.deepEqual(urisOf((await world.certify(world.client(await world.credentials(NODE_B))))[0]), [NODE_B]);
    await closed;
  });

  test('many from one address are refused, and forgotten when they end', async () => {
    await using world = await IssuanceWorld.start({ connectionLimits: { connectionsPerAddress: 3 } });
    const kept = await Promise.all([world.dial(), world.dial(), world.dial()]);
    await assert.rejects(world.dial());
    for (const socket of kept) socket.destroy();
    await until('the places are free', () => world.server.connections === 0);
    await world.dial();
  });

  test('without an SVID has no lasting place: many idle ones keep nobody out', async () => {
    await using world = await IssuanceWorld.start({ connectionLimits: { connectionsPerAddress: 1_000 } });
    const node = await world.dial(await world.credentials(NODE_B));
    const idle: TLSSocket[] = [];
    for (let i = 0; i < 260; i++) {
      // Addresses of loopback: each counts by itself.
      const socket = await world.dial({ localAddress: `127.0.0.${2 + (i % 200)}` });
      idle.push(socket.resume());
    }
    await until('the oldest have made room', () => idle.filter(({ destroyed }) => destroyed).length === 4);
    assert.deepEqual(
      idle.slice(0, 4).every(({ destroyed }) => destroyed),
      true,
    );
    assert.equal(node.destroyed, false);
    const token = await world.authority.tokens.create({ node: 'node-c', ttlSeconds: 60 });
    assert.equal((await world.certify(world.client(), { token })).length, 2);
  });

  test('ends when the SVID of the client expires', async () => {
    await using world = await IssuanceWorld.start();
    const socket = await world.dial(await world.credentials(NODE_B, 2));
    socket.resume();
    const startedAt = performance.now();
    await new Promise((resolve) => socket.once('close', resolve));
    assert.ok(performance.now() - startedAt < 3_000);
  });

  test('ends when the key that signed the client is revoked', async () => {
    await using world = await IssuanceWorld.start();
    const socket = await world.dial(await world.credentials(NODE_B));
    socket.resume();
    const closed = new Promise((resolve) => socket.once('close', resolve));
    const [old] = world.authority.status().slots;
    const { id } = await world.authority.prepare();
    await world.authority.activate(id, { force: true });
    await world.authority.taint(old?.id as string);
    const revokedAt = performance.now();
    await world.authority.revoke(old?.id as string);
    await closed;
    assert.ok(performance.now() - revokedAt < 3_000);
    // And the server shows a certificate of the new one.
    const leaf = (await world.dial()).getPeerX509Certificate() as X509Certificate;
    const [root] = world.authority.trust().bundle.x509Authorities;
    assert.equal(leaf.verify(new X509Certificate(root as Uint8Array).publicKey), true);
  });
});

describe('Watch', () => {
  test('is for nodes alone, and refuses an acknowledgement of what there has not been', async () => {
    await using world = await IssuanceWorld.start();
    const watch = async (client: ReturnType<IssuanceWorld['client']>, acknowledgedSequence: bigint | null): Promise<void> => {
      const requests = (async function* () {
        yield { acknowledgedSequence, sentAt: BigInt(Date.now()) };
        await new Promise(() => {});
      })();
      for await (const _ of client.bidi(WATCH, requests));
    };
    await refused(watch(world.client(), null), GRPC_STATUS.UNAUTHENTICATED, /^the caller is not known$/);
    await refused(watch(world.client(await world.credentials(WEB)), null), GRPC_STATUS.PERMISSION_DENIED, /may not/);
    const node = world.client(await world.credentials(NODE_B));
    await refused(watch(node, world.authority.trust().sequence + 1n), GRPC_STATUS.INVALID_ARGUMENT, /which there has not been/);
  });
});
