/** Two trust domains over loopback: what one publishes, by both profiles, is what the other verifies with. */
import assert from 'node:assert/strict';
import { X509Certificate } from 'node:crypto';
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, type Server } from 'node:https';
import type { RequestListener } from 'node:http';
import type { AddressInfo } from 'node:net';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, before, beforeEach, describe, it } from 'node:test';
import { connect as tlsConnect } from 'node:tls';
import { BundleEndpoint, type EndpointCertificate } from '../../../certs/bundle/bundle-endpoint.ts';
import { formatBundle } from '../../../certs/bundle/bundle-format.ts';
import type { RedirectTargets } from '../../../certs/bundle/bundle-fetcher.ts';
import { BundleStore } from '../../../certs/bundle/bundle-store.ts';
import { CertificateFiles, svidCertificate } from '../../../certs/bundle/endpoint-certificate.ts';
import { FederationClient, type FederationStatus } from '../../../certs/bundle/federation-client.ts';
import { openBundleEndpoint } from '../../../certs/bundle/open-bundle-endpoint.ts';
import type { SpiffeBundle, TrustState } from '../../../certs/bundle/trust-state.ts';
import { SvidVerifier } from '../../../certs/svid/peer-verifier.ts';
import { publicKeyDigest } from '../../../certs/x509/public-key.ts';
import { isFetchable, refusedHost } from '../../../src/config/fetchable-address.ts';
import type { SvidMaterial } from '../../../src/model/data-plane.ts';
import type { BundleEndpointProfile, FederatedTrustDomain } from '../../../src/model/resources.ts';
import { type Forged, forge, forgeRoot } from '../../unit/certs/forge.ts';
import { ManualClock } from '../../unit/certs/manual-clock.ts';

const FOREIGN = 'partner.example';
const ENDPOINT_ID = `spiffe://${FOREIGN}/bundle-endpoint`;
const INTERVAL_MS = 400_000;

let directory: string;
let root: Forged;
let nextRoot: Forged;
let webRoot: Forged;
let web: Forged;
let stranger: Forged;

before(async () => {
  const ca = (name: string, uri: string): Promise<Forged> => forgeRoot({ subject: `CN=${name}`, uris: [uri] });
  [root, nextRoot, webRoot, stranger] = await Promise.all([
    ca('foreign root', `spiffe://${FOREIGN}`),
    ca('next foreign root', `spiffe://${FOREIGN}`),
    forgeRoot({ subject: 'CN=web root', uris: [] }),
    ca('stranger', `spiffe://${FOREIGN}`),
  ]);
  web = await forge({
    issuer: webRoot,
    uris: [],
    otherNames: [
      { type: 'dns', value: 'localhost' },
      { type: 'ip', value: '127.0.0.1' },
      { type: 'ip', value: '::1' },
    ],
  });
});

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'weft-federation-'));
});
afterEach(() => rmSync(directory, { recursive: true }));

function bundleOf(sequence: bigint | null, ...roots: Forged[]): SpiffeBundle {
  return {
    trustDomain: FOREIGN,
    x509Authorities: roots.map(({ der }) => der),
    jwtAuthorities: [],
    sequence,
    refreshHintSeconds: INTERVAL_MS / 1000,
  };
}

/** A certificate that can be exchanged. */
class Shown implements EndpointCertificate {
  #pair: { cert: string; key: string } | null;
  #listener: () => void = () => {};

  constructor(forged: Forged | null, ...intermediates: Forged[]) {
    this.#pair = forged === null ? null : { cert: [forged, ...intermediates].map(({ pem }) => pem).join(''), key: forged.privateKey };
  }

  lend(use: (pair: { cert: string; key: string }) => void): boolean {
    if (this.#pair !== null) use(this.#pair);
    return this.#pair !== null;
  }

  onChange(listener: () => void): () => void {
    this.#listener = listener;
    return () => {};
  }

  change(forged: Forged): void {
    this.#pair = { cert: forged.pem, key: forged.privateKey };
    this.#listener();
  }
}

function svid(issuer: Forged, identity: string = ENDPOINT_ID): Promise<Forged> {
  return forge({ issuer, uris: [identity] });
}

interface World {
  readonly client: FederationClient;
  readonly clock: ManualClock;
  readonly logged: string[];
  /** Resolves when the fetch under way is over. */
  settled(): Promise<FederationStatus>;
  /** Lets the interval pass, and waits for the fetch. */
  nextFetch(): Promise<FederationStatus>;
}

function federate(
  parameters: Partial<FederatedTrustDomain> & { bundleEndpointUrl: string; profile: BundleEndpointProfile },
  redirectTargets: RedirectTargets = { refusedHost, isFetchable },
  ownTrust: TrustState | null = null,
): World & AsyncDisposable {
  const clock = new ManualClock();
  const logged: string[] = [];
  const note = (fields: object, message: string): void => void logged.push(`${message} ${JSON.stringify(fields)}`);
  const client = new FederationClient({
    store: new BundleStore(join(directory, 'bundles')),
    ownTrust: () => ownTrust,
    redirectTargets,
    log: { info: note, warn: note },
    clock,
    random: () => 0.5,
  });
  client.setRelationships([{ trustDomain: FOREIGN, initialBundle: null, ...parameters }]);
  const settled = async (): Promise<FederationStatus> => {
    for (const deadline = Date.now() + 10_000; Date.now() < deadline; ) {
      const [status] = client.status();
      if (status?.state === 'waiting') return status;
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
    throw new Error('the fetch does not end');
  };
  const nextFetch = async (): Promise<FederationStatus> => {
    await clock.advance(INTERVAL_MS);
    return settled();
  };
  return { client, clock, logged, settled, nextFetch, [Symbol.asyncDispose]: () => client[Symbol.asyncDispose]() };
}

function publish(source: { bundle: SpiffeBundle | null }, certificate: EndpointCertificate, host = '127.0.0.1'): Promise<BundleEndpoint> {
  return BundleEndpoint.listen({
    host,
    port: 0,
    source: { bundle: () => source.bundle },
    certificate,
    onError: (error) => assert.fail(error.message),
  });
}

function urlOf({ address: { address, port } }: BundleEndpoint): string {
  return `https://${address.includes(':') ? `[${address}]` : address}:${port}/`;
}

const SPIFFE: BundleEndpointProfile = { type: 'https_spiffe', endpointId: ENDPOINT_ID };
const webProfile = (): BundleEndpointProfile => ({ type: 'https_web', webRoots: webRoot.pem });

/** Whether a workload's SVID of the foreign trust domain, by this root, verifies with what the client has. */
async function verifies(client: FederationClient, issuer: Forged, identity = `spiffe://${FOREIGN}/ns/shop/sa/cart`): Promise<boolean> {
  const verifier = new SvidVerifier(
    {
      bundle: (trustDomain) => {
        const bundle = client.bundle(trustDomain);
        return bundle === null ? null : { trustDomain, roots: bundle.x509Authorities, sequence: 1, revokedKeys: [] };
      },
    },
    { cacheSize: 0 },
  );
  try {
    verifier.verify([(await svid(issuer, identity)).der]);
    return true;
  } catch {
    return false;
  }
}

/** An endpoint that answers as it is told, with a certificate that is right for both profiles. */
async function answering(
  listener: RequestListener,
  certificate?: Forged,
  host = '127.0.0.1',
): Promise<{ url: string; server: Server } & AsyncDisposable> {
  const { pem, privateKey } = certificate ?? (await both());
  const server = createServer({ cert: pem, key: privateKey }, listener);
  await new Promise<void>((resolve) => server.listen(0, host, resolve));
  return {
    server,
    url: `https://${host === '::1' ? '[::1]' : host}:${(server.address() as AddressInfo).port}/`,
    async [Symbol.asyncDispose]() {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}

async function both(): Promise<Forged> {
  return svid(root);
}

for (const host of ['127.0.0.1', '::1']) {
  describe(`federation over ${host}`, () => {
    it('https_spiffe: starts from the initial bundle, and follows a rotation of the foreign root', async () => {
      const source: { bundle: SpiffeBundle } = { bundle: bundleOf(1n, root) };
      const certificate = new Shown(await svid(root));
      await using endpoint = await publish(source, certificate, host);
      await using world = federate({
        bundleEndpointUrl: urlOf(endpoint),
        profile: SPIFFE,
        initialBundle: formatBundle(bundleOf(null, root)),
      });
      const { client } = world;
      assert.equal((await world.settled()).source, 'endpoint');
      assert.deepEqual([await verifies(client, root), await verifies(client, nextRoot)], [true, false]);

      source.bundle = bundleOf(2n, root, nextRoot);
      assert.equal((await world.nextFetch()).bundle?.sequence, 2n);
      assert.deepEqual([await verifies(client, root), await verifies(client, nextRoot)], [true, true]);

      certificate.change(await svid(nextRoot));
      source.bundle = bundleOf(3n, nextRoot);
      assert.equal((await world.nextFetch()).lastFailure, null);
      assert.deepEqual([await verifies(client, root), await verifies(client, nextRoot)], [false, true]);

      // The bundle it started from is of no use any more: the latest one verifies the endpoint.
      source.bundle = bundleOf(4n, nextRoot);
      assert.equal((await world.nextFetch()).bundle?.sequence, 4n);
    });

    it('https_web: the certificate is for the host, by the given roots', async () => {
      await using endpoint = await publish({ bundle: bundleOf(1n, root) }, new Shown(web), host);
      await using world = federate({ bundleEndpointUrl: urlOf(endpoint), profile: webProfile() });
      assert.equal((await world.settled()).bundle?.sequence, 1n);
      assert.ok(await verifies(world.client, root));
    });
  });
}

describe('https_spiffe', () => {
  const initialBundle = (): string => formatBundle(bundleOf(1n, root));

  async function failsWith(certificate: Forged, why: RegExp, profile: BundleEndpointProfile = SPIFFE): Promise<void> {
    let asked = 0;
    await using endpoint = await answering((_, response) => {
      asked++;
      response.end(formatBundle(bundleOf(2n, stranger)));
    }, certificate);
    await using world = federate({ bundleEndpointUrl: endpoint.url, profile, initialBundle: initialBundle() });
    const status = await world.settled();
    assert.match(status.lastFailure ?? '', why);
    assert.equal(asked, 0, 'an endpoint that is not verified is asked nothing');
    assert.equal(status.bundle?.sequence, 1n);
    assert.ok(!(await verifies(world.client, stranger)));
  }

  it('another SPIFFE ID of the same trust domain is not the endpoint', async () => {
    await failsWith(await svid(root, `spiffe://${FOREIGN}/bundle-endpoint2`), /is of spiffe:\/\/partner.example\/bundle-endpoint2, not of/);
  });

  it('the right SPIFFE ID by another authority is not the endpoint', async () => {
    await failsWith(await svid(stranger), /WEFT_IDENTITY_PEER_CHAIN/);
  });

  it('a certificate of the web, though it is right for the host, is not the endpoint', async () => {
    await failsWith(web, /WEFT_IDENTITY_PEER_SAN/);
  });

  it('an expired SVID is not the endpoint', async () => {
    await failsWith(
      await forge({ issuer: root, uris: [ENDPOINT_ID], notBefore: Date.now() - 7200_000, notAfter: Date.now() - 3600_000 }),
      /EXPIRED/,
    );
  });

  it('an endpoint of another trust domain needs the bundle of that trust domain', async () => {
    const thirdId = 'spiffe://third.example/bundle-endpoint';
    await failsWith(await svid(root, thirdId), /no trust bundle for the peer's trust domain "third.example"/, {
      type: 'https_spiffe',
      endpointId: thirdId,
    });
  });

  it('an SVID under an intermediate authority is the endpoint', async () => {
    const intermediate = await forge({ issuer: root, subject: 'CN=intermediate', uris: [`spiffe://${FOREIGN}`], ca: true });
    await using endpoint = await publish({ bundle: bundleOf(2n, root) }, new Shown(await svid(intermediate), intermediate));
    await using world = federate({ bundleEndpointUrl: urlOf(endpoint), profile: SPIFFE, initialBundle: initialBundle() });
    assert.equal((await world.settled()).bundle?.sequence, 2n);
  });

  it('an SVID of our own trust domain under a key that was revoked is not the endpoint', async () => {
    const ownId = 'spiffe://own.example/bundle-endpoint';
    const intermediate = await forgeRoot({ issuer: root, subject: 'CN=own intermediate' });
    await using endpoint = await publish({ bundle: bundleOf(1n, stranger) }, new Shown(await svid(intermediate, ownId), intermediate));
    const parameters = { bundleEndpointUrl: urlOf(endpoint), profile: { type: 'https_spiffe', endpointId: ownId } } as const;
    const bundle = { ...bundleOf(1n, root), trustDomain: 'own.example' };
    const trust: TrustState = { sequence: 1n, bundle, taintedKeys: [], revokedKeys: [] };
    {
      await using world = federate(parameters, undefined, trust);
      assert.equal((await world.settled()).bundle?.sequence, 1n);
    }
    rmSync(join(directory, 'bundles'), { recursive: true });
    const revokedKeys = [publicKeyDigest(new X509Certificate(intermediate.pem).publicKey)];
    await using world = federate(parameters, undefined, { ...trust, revokedKeys });
    const status = await world.settled();
    assert.match(status.lastFailure ?? '', /WEFT_IDENTITY_PEER_REVOKED/);
    assert.equal(status.bundle, null);
  });
});

describe('https_web', () => {
  it('a certificate by other roots, or for another host, is refused', async () => {
    const elsewhere = await forge({ issuer: webRoot, uris: [], otherNames: [{ type: 'dns', value: 'elsewhere.example' }] });
    for (const [certificate, webRoots] of [
      [web, stranger.pem],
      [web, null],
      [elsewhere, webRoot.pem],
      [await svid(root), webRoot.pem],
    ] as const) {
      await using endpoint = await publish({ bundle: bundleOf(1n, root) }, new Shown(certificate));
      await using world = federate({ bundleEndpointUrl: urlOf(endpoint), profile: { type: 'https_web', webRoots } });
      const status = await world.settled();
      assert.match(status.lastFailure ?? '', /WEFT_CERTS_BUNDLE_ENDPOINT/);
      assert.equal(status.bundle, null);
    }
  });

  it('is verified also where an environment variable has Node verify nothing', async () => {
    process.env['NODE_TLS_REJECT_UNAUTHORIZED'] = '0';
    try {
      await using endpoint = await publish({ bundle: bundleOf(1n, root) }, new Shown(await svid(stranger)));
      await using world = federate({ bundleEndpointUrl: urlOf(endpoint), profile: webProfile() });
      assert.equal((await world.settled()).bundle, null);
    } finally {
      delete process.env['NODE_TLS_REJECT_UNAUTHORIZED'];
    }
  });

  it("the operator's certificate is read again when its files change", async () => {
    const [certificateFile, keyFile] = [join(directory, 'web.pem'), join(directory, 'web.key')];
    const write = ({ pem, privateKey }: Forged): void => {
      writeFileSync(certificateFile, pem);
      writeFileSync(keyFile, privateKey);
    };
    write(await svid(stranger));
    const clock = new ManualClock();
    const errors: string[] = [];
    using certificate = await CertificateFiles.open({ certificateFile, keyFile, clock, onError: ({ code }) => errors.push(code) });
    await using endpoint = await publish({ bundle: bundleOf(1n, root) }, certificate);
    await using world = federate({ bundleEndpointUrl: urlOf(endpoint), profile: webProfile() });
    assert.match((await world.settled()).lastFailure ?? '', /ENDPOINT/);
    // Half of a change is no pair.
    writeFileSync(certificateFile, web.pem);
    await clock.advance(10_000);
    await new Promise((resolve) => setTimeout(resolve, 50));
    assert.deepEqual(errors, ['WEFT_CERTS_BUNDLE_CERTIFICATE']);
    write(web);
    await clock.advance(10_000);
    await new Promise((resolve) => setTimeout(resolve, 50));
    await world.clock.advance(300_000);
    assert.equal((await world.settled()).bundle?.sequence, 1n);
  });
});

describe('redirects', () => {
  /** An endpoint that redirects to `location`, and what became of it. */
  async function redirected(
    location: (url: string) => string,
    profile: BundleEndpointProfile,
    certificate: Forged,
  ): Promise<FederationStatus> {
    await using endpoint = await answering((request, response) => {
      if (request.url === '/') response.writeHead(302, { location: location(endpoint.url) }).end();
      else response.end(formatBundle(bundleOf(2n, root)));
    }, certificate);
    await using world = federate({ bundleEndpointUrl: endpoint.url, profile, initialBundle: formatBundle(bundleOf(1n, root)) });
    return await world.settled();
  }

  it('to another path of the endpoint are followed, by both profiles', async () => {
    assert.equal((await redirected(() => '/bundle.json', webProfile(), web)).bundle?.sequence, 2n);
    assert.equal((await redirected((url) => `${url}bundle.json?x=1`, SPIFFE, await svid(root))).bundle?.sequence, 2n);
  });

  it('to plain http, other schemes and URLs with a user name are refused', async () => {
    for (const location of [
      'http://127.0.0.1/',
      'file:///etc/passwd',
      'https://user:pass@127.0.0.1/',
      'https://',
      'data:application/json,{"keys":[]}',
    ]) {
      const status = await redirected(() => location, webProfile(), web);
      assert.match(status.lastFailure ?? '', /redirects to .*, which is/, location);
      assert.equal(status.bundle?.sequence, 1n);
    }
  });

  it('to the node itself and to metadata services are refused, where the operator did not write that host', async () => {
    for (const location of [
      'https://[::1]:1/',
      'https://localhost:1/',
      'https://169.254.169.254/',
      'https://metadata.google.internal/',
      'https://2852039166/',
    ]) {
      const status = await redirected(() => location, SPIFFE, await svid(root));
      assert.match(status.lastFailure ?? '', /redirects to .*, which (leads|hides)/, location);
      assert.equal(status.bundle?.sequence, 1n);
    }
  });

  it('to a name are refused where that resolves to such an address, and followed where it does not', async () => {
    await using target = await answering((_, response) => response.end(formatBundle(bundleOf(2n, root))), web);
    await using endpoint = await answering((_, response) => {
      response.writeHead(302, { location: `https://localhost:${new URL(target.url).port}/` }).end();
    }, web);
    const parameters = { bundleEndpointUrl: endpoint.url, profile: webProfile() };
    const asked: string[] = [];
    const allows = (verdict: boolean): RedirectTargets => ({
      refusedHost: () => null,
      isFetchable: (address) => asked.push(address) > 0 && verdict,
    });
    {
      await using world = federate(parameters, allows(false));
      assert.match((await world.settled()).lastFailure ?? '', /localhost leads to an address that nothing is fetched from/);
      assert.ok(asked.includes('127.0.0.1'));
    }
    await using world = federate(parameters, allows(true));
    assert.equal((await world.settled()).bundle?.sequence, 2n);
  });

  it('without end are given up', async () => {
    assert.match((await redirected(() => '/', webProfile(), web)).lastFailure ?? '', /more than 5 redirects/);
  });

  it('to a peer with another SPIFFE ID are refused, and the next fetch starts from the configured URL', async () => {
    let asked = 0;
    await using other = await answering(
      (_, response) => response.end(formatBundle(bundleOf(9n, stranger))),
      await svid(root, `spiffe://${FOREIGN}/other`),
    );
    await using endpoint = await answering((_, response) => {
      if (asked++ === 0) response.writeHead(307, { location: other.url }).end();
      else response.end(formatBundle(bundleOf(2n, root)));
    });
    await using world = federate({ bundleEndpointUrl: endpoint.url, profile: SPIFFE, initialBundle: formatBundle(bundleOf(1n, root)) });
    assert.match((await world.settled()).lastFailure ?? '', /is of spiffe:\/\/partner.example\/other, not of/);
    assert.equal((await world.nextFetch()).bundle?.sequence, 2n);
  });
});

describe('what an endpoint answers', () => {
  /** The status after a first good fetch, and after one with this answer. */
  async function afterGood(listener: RequestListener): Promise<{ status: FederationStatus; logged: string[] }> {
    let asked = 0;
    await using endpoint = await answering((request, response) => {
      if (asked++ === 0) response.end(formatBundle(bundleOf(5n, root)));
      else listener(request, response);
    }, web);
    await using world = federate({ bundleEndpointUrl: endpoint.url, profile: webProfile() });
    assert.equal((await world.settled()).bundle?.sequence, 5n);
    return { status: await world.nextFetch(), logged: world.logged };
  }

  async function keepsTheOld(listener: RequestListener, why: RegExp): Promise<void> {
    const { status, logged } = await afterGood(listener);
    assert.match(status.lastFailure ?? '', why);
    assert.equal(status.bundle?.sequence, 5n);
    assert.deepEqual(status.bundle?.x509Authorities, [root.der]);
    assert.ok(
      logged.some((line) => why.test(line)),
      'the reason is in the log',
    );
    assert.equal((status.nextFetch as number) - (status.refreshedAt as number), 2 * INTERVAL_MS, 'tried again at the next interval');
  }

  const body =
    (text: string | Buffer): RequestListener =>
    (_, response) =>
      void response.end(text);

  it('a sequence that goes backwards is refused', () => keepsTheOld(body(formatBundle(bundleOf(4n, nextRoot))), /went back from 5 to 4/));
  it('the same sequence with other keys is refused', () => keepsTheOld(body(formatBundle(bundleOf(5n, nextRoot))), /same sequence 5/));
  it('what is no bundle is refused', () => keepsTheOld(body('<html>'), /WEFT_CERTS_BUNDLE_FORMAT/));
  it('bytes that are not UTF-8 are refused', () => keepsTheOld(body(Buffer.from([0x7b, 0xff])), /not UTF-8/));
  it('an endless answer is refused', () => keepsTheOld(body('x'.repeat(1024 * 1024 + 1)), /the answer is longer than 1 MiB/));
  it('another status is refused', () => keepsTheOld((_, response) => void response.writeHead(503).end('{"keys":[]}'), /the answer is 503/));
  it('a cut answer is refused', () =>
    keepsTheOld((_, response) => {
      response.writeHead(200, { 'content-length': '100' }).write('{"keys":[]}');
      setTimeout(() => response.destroy(), 20);
    }, /ENDPOINT/));
  it('a compressed answer is refused', () =>
    keepsTheOld((_, response) => void response.writeHead(200, { 'content-encoding': 'gzip' }).end('x'), /encoded as .*gzip/));

  it('an empty set of keys is taken: it revokes everything', async () => {
    const { status, logged } = await afterGood(body('{"keys":[],"spiffe_sequence":6}'));
    assert.deepEqual([status.lastFailure, status.bundle?.x509Authorities], [null, []]);
    assert.ok(logged.some((line) => line.includes('revoked all')));
  });

  it('unknown key types are left out, and the rest counts', async () => {
    const document = JSON.parse(formatBundle(bundleOf(6n, nextRoot))) as { keys: unknown[] };
    document.keys.push({ kty: 'new', use: 'x509-svid' }, { kty: 'EC', use: 'new' });
    const { status, logged } = await afterGood(body(JSON.stringify(document)));
    assert.deepEqual([status.lastFailure, status.bundle?.x509Authorities], [null, [nextRoot.der]]);
    assert.ok(logged.some((line) => line.includes('entry 1 has no key type that is known')));
  });

  it('a bundle without sequence is the latest', async () => {
    const { status } = await afterGood(body(formatBundle(bundleOf(null, nextRoot))));
    assert.deepEqual(status.bundle?.x509Authorities, [nextRoot.der]);
  });
});

describe('a foreign trust domain', () => {
  it('verifies by its own bundle alone, and a third one not at all', async () => {
    await using endpoint = await publish({ bundle: bundleOf(1n, root) }, new Shown(web));
    await using world = federate({ bundleEndpointUrl: urlOf(endpoint), profile: webProfile() });
    await world.settled();
    assert.ok(await verifies(world.client, root));
    assert.ok(!(await verifies(world.client, stranger)), 'by another root');
    assert.ok(
      !(await verifies(world.client, root, 'spiffe://cluster.local/ns/shop/sa/cart')),
      'the foreign root says nothing of other trust domains',
    );
    assert.equal(world.client.bundle('cluster.local'), null);
  });

  it('is remembered over a restart, and forgotten with its relationship', async () => {
    const source: { bundle: SpiffeBundle } = { bundle: bundleOf(7n, root) };
    let url: string;
    {
      await using endpoint = await publish(source, new Shown(web));
      url = urlOf(endpoint);
      await using world = federate({ bundleEndpointUrl: url, profile: webProfile() });
      await world.settled();
    }
    assert.deepEqual(readdirSync(join(directory, 'bundles')), ['partner.example.json']);
    await using world = federate({ bundleEndpointUrl: url, profile: webProfile() });
    const status = await world.settled();
    assert.equal(status.source, 'stored');
    assert.match(status.lastFailure ?? '', /ENDPOINT/);
    assert.ok(await verifies(world.client, root));
    world.client.setRelationships([]);
    assert.ok(!(await verifies(world.client, root)));
    await world.client[Symbol.asyncDispose]();
    assert.deepEqual(readdirSync(join(directory, 'bundles')), []);
  });

  it('starts anew where the operator gives another initial bundle, and not from a stored one that is damaged', async () => {
    await using endpoint = await publish({ bundle: bundleOf(7n, root) }, new Shown(web));
    const parameters = { bundleEndpointUrl: urlOf(endpoint), profile: webProfile() };
    {
      await using world = federate(parameters);
      await world.settled();
    }
    {
      await using world = federate({
        ...parameters,
        bundleEndpointUrl: 'https://127.0.0.1:1/',
        initialBundle: formatBundle(bundleOf(1n, nextRoot)),
      });
      assert.equal((await world.settled()).source, 'configuration');
      assert.deepEqual([await verifies(world.client, root), await verifies(world.client, nextRoot)], [false, true]);
    }
    const path = join(directory, 'bundles', 'partner.example.json');
    writeFileSync(path, readFileSync(path, 'utf8').slice(0, 20));
    await using world = federate({ ...parameters, bundleEndpointUrl: 'https://127.0.0.1:1/' });
    assert.equal((await world.settled()).source, null);
    assert.ok(world.logged.some((line) => line.includes('WEFT_CERTS_BUNDLE_STORE')));
  });
});

describe('the bundle endpoint', () => {
  interface Answer {
    readonly status: number;
    readonly head: string;
    readonly body: string;
  }

  function ask(endpoint: BundleEndpoint, request: string): Promise<Answer> {
    return new Promise((resolve, reject) => {
      const socket = tlsConnect({ host: '127.0.0.1', port: endpoint.address.port, ca: webRoot.pem }, () => socket.write(request));
      let text = '';
      socket.setEncoding('utf8').on('data', (chunk: string) => (text += chunk));
      socket.on('error', reject).on('end', () => {
        const [head = '', body = ''] = text.split('\r\n\r\n');
        resolve({ status: Number(head.split(' ')[1]), head: head.toLowerCase(), body });
      });
    });
  }

  it('answers GET alone, on its path alone, as JSON that no cache keeps, and asks nobody for a certificate', async () => {
    await using endpoint = await BundleEndpoint.listen({
      host: '127.0.0.1',
      port: 0,
      path: '/bundle.json',
      source: { bundle: () => bundleOf(2n ** 63n, root) },
      certificate: new Shown(web),
      refreshHintSeconds: 77,
      onError: assert.fail,
    });
    const good = await ask(endpoint, 'GET /bundle.json?a=b HTTP/1.1\r\nHost: x\r\n\r\n');
    assert.equal(good.status, 200);
    assert.match(good.head, /content-type: application\/json/);
    assert.match(good.head, /cache-control: no-cache/);
    assert.match(good.body, /"spiffe_sequence":9223372036854775808,"spiffe_refresh_hint":77/);
    assert.equal((await ask(endpoint, 'GET / HTTP/1.1\r\nHost: x\r\n\r\n')).status, 404);
    const posted = await ask(endpoint, 'POST /bundle.json HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n');
    assert.deepEqual([posted.status, /allow: get/.test(posted.head)], [405, true]);
  });

  it('says that the bundle is not known yet, and fails handshakes without a certificate', async () => {
    await using endpoint = await publish({ bundle: null }, new Shown(web));
    assert.equal((await ask(endpoint, 'GET / HTTP/1.1\r\nHost: x\r\n\r\n')).status, 503);
    await using bare = await publish({ bundle: bundleOf(1n, root) }, new Shown(null));
    await assert.rejects(ask(bare, 'GET / HTTP/1.1\r\nHost: x\r\n\r\n'));
  });

  it('bounds idle and half-open clients, and stops with them open', async () => {
    await using endpoint = await publish({ bundle: bundleOf(1n, root) }, new Shown(web));
    const sockets = Array.from({ length: 300 }, () => connect(endpoint.address.port, '127.0.0.1').on('error', () => {}));
    const closed = sockets.map((socket) => new Promise((resolve) => socket.on('close', resolve)));
    const ended = (): number => sockets.filter(({ destroyed, readyState }) => destroyed || readyState === 'closed').length;
    for (const deadline = Date.now() + 10_000; ended() < 300 - 256 && Date.now() < deadline; ) {
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
    assert.ok(ended() >= 300 - 256, 'more than 256 are not kept');
    const stoppedAt = Date.now();
    await endpoint[Symbol.asyncDispose]();
    await Promise.all(closed);
    assert.ok(Date.now() - stoppedAt < 5_000, 'it waits for nobody');
  });

  it('shows the SVID of its identity, and the next one after its renewal', async () => {
    const certificateOf = async (forged: Forged): Promise<SvidMaterial> => ({
      identity: ENDPOINT_ID,
      certificateChain: forged.pem,
      privateKey: new Uint8Array(await crypto.subtle.exportKey('pkcs8', forged.keys.privateKey)),
      notAfter: Date.now() + 3600_000,
    });
    let current: SvidMaterial | null = null;
    let changed = (): void => {};
    const onChange = (listener: () => void): (() => void) => {
      changed = listener;
      return () => {};
    };
    const certificate = svidCertificate({ current: (identity) => (identity === ENDPOINT_ID ? current : null), onChange }, ENDPOINT_ID);
    await using endpoint = await publish({ bundle: bundleOf(2n, nextRoot) }, certificate);
    const parameters = { bundleEndpointUrl: urlOf(endpoint), profile: SPIFFE };
    await using world = federate({ ...parameters, initialBundle: formatBundle(bundleOf(1n, root, nextRoot)) });
    assert.match((await world.settled()).lastFailure ?? '', /ENDPOINT/);
    for (const issuer of [root, nextRoot]) {
      current = await certificateOf(await svid(issuer));
      changed();
      world.client.setRelationships([]);
      world.client.setRelationships([{ trustDomain: FOREIGN, ...parameters, initialBundle: formatBundle(bundleOf(1n, issuer)) }]);
      assert.equal((await world.settled()).lastFailure, null);
    }
  });

  it('is opened as the operator has configured it, and closes with all it needed', async () => {
    const ensured: string[] = [];
    const svids = {
      ensure: (identity: string) => void ensured.push(identity),
      forget: (identity: string) => void ensured.splice(ensured.indexOf(identity), 1),
      current: () => null,
      onChange: () => () => {},
    };
    const settings = { host: '127.0.0.1', port: 0, path: '/', refreshHintSeconds: null };
    const source = { bundle: () => bundleOf(1n, root) };
    {
      await using _ = await openBundleEndpoint({
        settings: { ...settings, certificate: { kind: 'svid', identity: ENDPOINT_ID } },
        source,
        svids,
        onError: assert.fail,
      });
      assert.deepEqual(ensured, [ENDPOINT_ID]);
    }
    assert.deepEqual(ensured, []);
    const missing = { kind: 'files', certificateFile: join(directory, 'none'), keyFile: join(directory, 'none') } as const;
    await assert.rejects(openBundleEndpoint({ settings: { ...settings, certificate: missing }, source, svids, onError: assert.fail }), {
      code: 'WEFT_CERTS_BUNDLE_CERTIFICATE',
    });
  });

  it('says where it cannot listen', async () => {
    await using endpoint = await publish({ bundle: null }, new Shown(web));
    const options = {
      host: '127.0.0.1',
      port: endpoint.address.port,
      source: { bundle: () => null },
      certificate: new Shown(web),
      onError: assert.fail,
    };
    await assert.rejects(BundleEndpoint.listen(options), { code: 'WEFT_CERTS_BUNDLE_LISTEN' });
  });
});
