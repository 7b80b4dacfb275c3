import { hash, X509Certificate } from 'node:crypto';
import { connect, createSecureContext, type TLSSocket } from 'node:tls';
import { isIP } from 'node:net';
import type { SvidMaterial } from '../../src/model/data-plane.ts';
import { joinHostPort } from '../../src/model/address.ts';
import { peerChain } from '../../src/model/peer-certificates.ts';
import { CertsError } from '../errors.ts';
import type { BundleSource } from '../svid/identity-source.ts';
import { SvidVerifier } from '../svid/peer-verifier.ts';
import { withPemKey } from '../svid/private-key.ts';
import { TLS_SUITES } from '../svid/tls-contexts.ts';
import { toPem } from '../x509/pem.ts';
import { issuanceIdentity } from './node-identity.ts';

export interface AuthorityAddress {
  readonly host: string;
  readonly port: number;
}

const CONNECT_TIMEOUT_MS = 10_000;
const ALPN_HTTP2 = 'h2';

/**
 * Connects to the issuance service of a trust domain, and returns only when the server has proven to be it.
 * @param svid shown to the server; null shows none
 * @param bundle what the server is verified with; or the SHA-256 (lower-case hexadecimal) of the DER of the root certificate that it must
 *   lead to, for a node that knows no more yet
 * @throws CertsError WEFT_CERTS_AUTHORITY_AWAY when it cannot be reached, WEFT_CERTS_AUTHORITY_UNKNOWN when it is not the one;
 *   IdentityError WEFT_IDENTITY_PEER_*
 */
export async function dialAuthority(
  address: AuthorityAddress,
  trustDomain: string,
  svid: SvidMaterial | null,
  bundle: BundleSource | { readonly rootDigest: string },
  now: () => number,
): Promise<TLSSocket> {
  const socket = await shakeHands(address, svid);
  try {
    const chain = peerChain(socket);
    const bundles = 'rootDigest' in bundle ? pinned(chain, trustDomain, bundle.rootDigest) : bundle;
    const server = new SvidVerifier(bundles, { now, cacheSize: 0 }).verify(chain);
    const expected = issuanceIdentity(trustDomain).text;
    if (server.text !== expected) throw stranger(`it is ${server.text}, not ${expected}`);
    if (socket.alpnProtocol !== ALPN_HTTP2) throw stranger('it does not speak HTTP/2');
    return socket;
  } catch (error) {
    socket.destroy();
    throw error;
  }
}

function shakeHands({ host, port }: AuthorityAddress, svid: SvidMaterial | null): Promise<TLSSocket> {
  const options = { minVersion: 'TLSv1.3', maxVersion: 'TLSv1.3', ciphers: TLS_SUITES, ca: [] as string[] } as const;
  const secureContext =
    svid === null
      ? createSecureContext(options)
      : withPemKey(svid.privateKey, (key) => createSecureContext({ ...options, key, cert: svid.certificateChain }));
  return new Promise((resolve, reject) => {
    const socket = connect({
      host,
      port,
      secureContext,
      ALPNProtocols: [ALPN_HTTP2],
      // Names prove nothing here: what counts is the SPIFFE ID, which is checked from the DER before a byte is sent.
      rejectUnauthorized: false,
      checkServerIdentity: () => undefined,
      ...(isIP(host) === 0 ? { servername: host } : {}),
    });
    const fail = (why: string, cause?: unknown): void => {
      clearTimeout(timer);
      socket.destroy();
      reject(
        new CertsError('WEFT_CERTS_AUTHORITY_AWAY', `the authority on ${joinHostPort(host, port)} cannot be reached: ${why}`, {
          cause,
          nextStep: 'check --ca-server, and that `weft ca serve` or an agent with --ca-listen runs there',
        }),
      );
    };
    const timer = setTimeout(() => fail(`no answer within ${CONNECT_TIMEOUT_MS / 1000} s`), CONNECT_TIMEOUT_MS);
    socket.on('error', (error) => fail(error.message, error));
    socket.once('close', () => fail('it closed the connection'));
    socket.once('secureConnect', () => {
      clearTimeout(timer);
      resolve(socket);
    });
  });
}

/** The bundle of the one root with this hash, which the server sends at the end of its chain. */
function pinned(chain: readonly Uint8Array[], trustDomain: string, rootDigest: string): BundleSource {
  const root = chain.find((der) => hash('sha256', der, 'hex') === rootDigest && new X509Certificate(der).ca);
  if (root === undefined) throw stranger('its certificates do not lead to the root that the token names');
  const bundle = { trustDomain, roots: toPem('CERTIFICATE', root), revokedKeys: [], sequence: 1 };
  return { bundle: (name) => (name === trustDomain ? bundle : null) };
}

function stranger(why: string): CertsError {
  return new CertsError('WEFT_CERTS_AUTHORITY_UNKNOWN', `the server is not the authority: ${why}`, {
    nextStep: 'check --ca-server and --trust-domain; make a new token if the authority has a new root',
  });
}
