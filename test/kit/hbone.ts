import { createPrivateKey, createPublicKey, X509Certificate } from 'node:crypto';
import http2 from 'node:http2';
import { join } from 'node:path';
import tls from 'node:tls';
import type { ConnectionOptions, TLSSocket } from 'node:tls';
import { Authority } from '../../certs/authority/authority.ts';
import { CertificateAuthority } from '../../certs/authority/certificate-authority.ts';
import { createSigningRequest } from '../../certs/x509/signing-request.ts';
import { type Forged, type ForgeOptions, forge, pemKey } from '../unit/certs/forge.ts';
import { Conversation } from './conversation.ts';
import type { Lab } from './lab/index.ts';
import type { PodNetwork } from './pod-network.ts';

/** The port of HBONE. */
export const TUNNEL_PORT = 15_008;
const TRUST_DOMAIN = 'cluster.local';

/** PEM: what a TLS end needs. */
export interface TlsMaterial {
  readonly cert: string;
  readonly key: string;
  readonly ca: string;
}

/** The authority that the agents of a lab share, in the hands of a test: for SVIDs as they should be, and as they should not. */
export class LabAuthority {
  readonly roots: string;
  readonly #authority: CertificateAuthority;
  readonly #issuer: Forged;

  private constructor(authority: CertificateAuthority, issuer: Forged) {
    this.#authority = authority;
    this.#issuer = issuer;
    this.roots = authority.roots;
  }

  /** After the first agent of the lab has made it. */
  static async open(lab: Lab): Promise<LabAuthority> {
    const directory = join(lab.directory, 'ca');
    await using opened = await Authority.open({ directory, trustDomain: TRUST_DOMAIN, nodeName: 'test' });
    const [slot] = opened.status().slots;
    const certificate = opened.chain(slot?.id ?? '');
    const privateKey = createPrivateKey({ key: await opened.exportKey(slot?.id ?? '', 'test'), passphrase: 'test' });
    const key = privateKey.export({ type: 'pkcs8', format: 'pem' }).toString();
    const authority = await CertificateAuthority.fromPem({ certificate, key, trustDomain: TRUST_DOMAIN });
    const root = new X509Certificate(certificate);
    const algorithm = { name: 'ECDSA', namedCurve: 'P-256' };
    const pkcs8 = privateKey.export({ type: 'pkcs8', format: 'der' });
    const spki = createPublicKey(privateKey).export({ type: 'spki', format: 'der' });
    const keys = {
      privateKey: await crypto.subtle.importKey('pkcs8', new Uint8Array(pkcs8), algorithm, true, ['sign']),
      publicKey: await crypto.subtle.importKey('spki', new Uint8Array(spki), algorithm, true, ['verify']),
    };
    const subject = root.subject.split('\n').toReversed().join(', ');
    const issuer: Forged = { der: new Uint8Array(root.raw), pem: authority.roots, privateKey: '', keys, subject };
    return new LabAuthority(authority, issuer);
  }

  /** The name of its certificate. */
  get subject(): string {
    return this.#issuer.subject;
  }

  /** A valid SVID of a workload. */
  async issue(namespace: string, serviceAccount: string): Promise<TlsMaterial> {
    const identity = `spiffe://${TRUST_DOMAIN}/ns/${namespace}/sa/${serviceAccount}`;
    const { csr, privateKey } = await createSigningRequest(identity);
    const { certificateChain } = await this.#authority.issue(csr, { identity, ttlSeconds: 3600 });
    return { cert: certificateChain, key: pemKey(privateKey), ca: this.roots };
  }

  /** A certificate to order, signed by this authority unless the options name another issuer (null: self-signed). */
  async forge(options: ForgeOptions): Promise<TlsMaterial> {
    const made = await forge({ issuer: this.#issuer, ...options });
    return { cert: made.pem, key: made.privateKey, ca: this.roots };
  }
}

/** TLS as an HBONE client does it, from inside a pod. `options` replace what is right by what is not. */
export function dialTls(network: PodNetwork, address: string, material: Partial<TlsMaterial>, options: ConnectionOptions = {}): TLSSocket {
  const secure = tls.connect({
    socket: network.dial(address, TUNNEL_PORT),
    ALPNProtocols: ['h2'],
    minVersion: 'TLSv1.3',
    rejectUnauthorized: false,
    checkServerIdentity: () => undefined,
    ...material,
    ...options,
  });
  secure.on('error', () => {});
  return secure;
}

/** The answer to one CONNECT. */
export interface ConnectAnswer {
  readonly status: number;
  readonly headers: http2.IncomingHttpHeaders;
  /** The tunnelled connection. */
  readonly stream: http2.ClientHttp2Stream;
}

/** An HBONE client on node:http2, which shares no code with Weft. */
export class HboneClient implements Disposable {
  readonly secure: TLSSocket;
  readonly session: http2.ClientHttp2Session;

  constructor(network: PodNetwork, address: string, material: TlsMaterial) {
    this.secure = dialTls(network, address, material, { rejectUnauthorized: true });
    this.session = http2.connect('https://hbone', { createConnection: () => this.secure, settings: { enablePush: false } });
    this.session.on('error', () => {});
  }

  /** Any request; a CONNECT unless the headers say otherwise. Status 0: the stream was reset, or the connection went. */
  request(headers: http2.OutgoingHttpHeaders): Promise<ConnectAnswer> {
    const stream = this.session.request({ ':method': 'CONNECT', ...headers });
    stream.on('error', () => {});
    return new Promise((resolve) => {
      stream.once('response', (answer) => resolve({ status: answer[':status'] ?? 0, headers: answer, stream }));
      stream.once('close', () => resolve({ status: 0, headers: {}, stream }));
    });
  }

  /** A connection through the tunnel. @throws Error unless the answer is 200 */
  async connect(authority: string, headers: http2.OutgoingHttpHeaders = {}): Promise<Conversation> {
    const { status, stream } = await this.request({ ':authority': authority, ...headers });
    if (status !== 200) throw new Error(`CONNECT ${authority} was answered ${status}`);
    return new Conversation(stream);
  }

  [Symbol.dispose](): void {
    this.session.destroy();
    this.secure.destroy();
  }
}
