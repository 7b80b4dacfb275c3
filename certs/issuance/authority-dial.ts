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
import { issuanceIdentity } from './node-identity.ts';

export interface AuthorityAddress {
  readonly host: string;
  readonly port: number;
}

const CONNECT_TIMEOUT_MS = 10_000;
const ALPN_HTTP2 = 'h2';

/**
 * Checks that the server of a connection is the issuance service of a trust domain; ends the connection when it is not.
 * @throws CertsError WEFT_CERTS_AUTHORITY_UNKNOWN; IdentityError WEFT_IDENTITY_PEER_*
 */
export function verifyAuthority(socket: TLSSocket, trustDomain: string, bundles: BundleSource, now: () => number): void {
  try {
    const server = new SvidVerifier(bundles, { now, cacheSize: 0 }).verify(peerChain(socket));
    const expected = issuanceIdentity(trustDomain).text;
    if (server.text !== expected) throw unknownAuthority(`it is ${server.text}, not ${expected}`);
  } catch (error) {
    socket.destroy();
    throw error;
  }
}

/**
 * Connects to an issuance service. Who it is has not been checked: `verifyAuthority` does.
 * @param svid shown to the server; null shows none
 * @throws CertsError WEFT_CERTS_AUTHORITY_AWAY
 */
export function dialAuthority({ host, port }: AuthorityAddress, svid: SvidMaterial | null): Promise<TLSSocket> {
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
      // Names prove nothing here: what counts is the SPIFFE ID, in the DER.
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
      if (socket.alpnProtocol !== ALPN_HTTP2) fail('it does not speak HTTP/2');
      clearTimeout(timer);
      resolve(socket);
    });
  });
}

/** The server is somebody else. */
export function unknownAuthority(why: string): CertsError {
  return new CertsError('WEFT_CERTS_AUTHORITY_UNKNOWN', `the server is not the authority: ${why}`, {
    nextStep: 'check --ca-server and --trust-domain; make a new token if the authority has other roots by now',
  });
}
