import { type IncomingMessage, request as httpRequest } from 'node:http';
import { isIP } from 'node:net';
import { connect, type ConnectionOptions, type TLSSocket } from 'node:tls';
import { errorText } from '../../src/model/errors.ts';
import type { TrustBundle } from '../../src/model/data-plane.ts';
import type { BundleEndpointProfile } from '../../src/model/resources.ts';
import { allowedLookup } from '../allowed-lookup.ts';
import { CertsError } from '../errors.ts';
import { peerChain } from '../../src/model/peer-certificates.ts';
import { SvidVerifier } from '../svid/peer-verifier.ts';
import { MAX_BUNDLE_LENGTH } from './bundle-format.ts';

/** Where redirects may lead: other hosts are chosen by the endpoint, not by the operator. */
export interface RedirectTargets {
  /** Why a host is not asked, as the end of a sentence about it; null when it may be. `hostname` is as URL.hostname has it. */
  readonly refusedHost: (hostname: string) => string | null;
  /** Whether an address that a name was resolved to may be dialled. */
  readonly isFetchable: (address: string) => boolean;
}

/** What an endpoint's SVID is verified with. Only of the own trust domain is it known which keys are revoked. */
export type EndpointBundle = Pick<TrustBundle, 'roots' | 'revokedKeys'>;

export interface FetchBundleOptions {
  readonly url: string;
  readonly profile: BundleEndpointProfile;
  /** Bundles to verify an https_spiffe endpoint with: the latest of its trust domain, or null. */
  readonly bundle: (trustDomain: string) => EndpointBundle | null;
  readonly redirectTargets: RedirectTargets;
  /** Milliseconds since the epoch. */
  readonly now: () => number;
  readonly signal: AbortSignal;
  /** For all of it, redirects included. Default 20,000. */
  readonly timeoutMs?: number;
}

const TIMEOUT_MS = 20_000;
const MAX_REDIRECTS = 5;
const REDIRECTS: ReadonlySet<number> = new Set([301, 302, 303, 307, 308]);
const MAX_HEADER_BYTES = 16 * 1024;

/**
 * Fetches what a bundle endpoint publishes (SPIFFE_Federation.md sections 5.2.1.4 and 5.2.2.4), by its profile and no other. The peer is verified
 * before it is asked anything. Each redirect is followed only to an https URL, with every check made anew: for https_spiffe the target
 * must have the same SPIFFE ID; a host that the operator did not write must not be the node itself or a metadata service.
 * @returns the body, UTF-8; what it says is not looked at
 * @throws CertsError WEFT_CERTS_BUNDLE_ENDPOINT with the reason
 */
export async function fetchBundle(options: FetchBundleOptions): Promise<string> {
  const { url: configured, timeoutMs = TIMEOUT_MS } = options;
  const timeout = AbortSignal.timeout(timeoutMs);
  const signal = AbortSignal.any([options.signal, timeout]);
  let url = endpointUrl(configured);
  const host = url.hostname;
  try {
    for (let redirects = 0; redirects <= MAX_REDIRECTS; redirects++) {
      const answer = await ask(url, url.hostname !== host, options, signal);
      if ('text' in answer) return answer.text;
      url = endpointUrl(answer.location, url);
    }
    throw failure(configured, `more than ${MAX_REDIRECTS} redirects`);
  } catch (error) {
    if (timeout.aborted) throw failure(configured, `no whole answer within ${timeoutMs} ms`, error);
    if (error instanceof CertsError) throw error;
    throw failure(url.href, errorText(error), error);
  }
}

function failure(url: string, why: string, cause?: unknown): CertsError {
  return new CertsError('WEFT_CERTS_BUNDLE_ENDPOINT', `no bundle from ${JSON.stringify(url.slice(0, 200))}: ${why}`, {
    nextStep: 'check bundleEndpointURL and bundleEndpointProfile, and that this node can reach it; the last good bundle stays in force',
    cause,
  });
}

/** SPIFFE_Federation.md sections 5.2.1.1 and 5.2.2.1. */
function endpointUrl(text: string, redirectedFrom?: URL): URL {
  const url = URL.parse(text, redirectedFrom?.href);
  const what = redirectedFrom === undefined ? 'it is' : `it redirects to ${JSON.stringify(text.slice(0, 200))}, which is`;
  if (url?.protocol !== 'https:') throw failure(redirectedFrom?.href ?? text, `${what} not an https URL`);
  if (url.username !== '' || url.password !== '') throw failure(redirectedFrom?.href ?? text, `${what} a URL with a user name or password`);
  return url;
}

async function ask(
  url: URL,
  isElsewhere: boolean,
  options: FetchBundleOptions,
  signal: AbortSignal,
): Promise<{ text: string } | { location: string }> {
  const refusal = isElsewhere ? options.redirectTargets.refusedHost(url.hostname) : null;
  if (refusal !== null) throw failure(options.url, `it redirects to ${JSON.stringify(url.host)}, which ${refusal}`);
  const socket = await connectVerified(url, isElsewhere, options, signal);
  try {
    const response = await get(url, socket, signal);
    const status = response.statusCode ?? 0;
    if (REDIRECTS.has(status) && response.headers.location !== undefined) return { location: response.headers.location };
    if (status !== 200) throw failure(url.href, `the answer is ${status}`);
    return { text: await readBody(url, response) };
  } finally {
    socket.destroy();
  }
}

/** A TLS connection to the host of a URL, whose peer is the endpoint that the profile asks for. */
async function connectVerified(url: URL, isElsewhere: boolean, options: FetchBundleOptions, signal: AbortSignal): Promise<TLSSocket> {
  const { profile, redirectTargets } = options;
  const host = url.hostname.startsWith('[') ? url.hostname.slice(1, -1) : url.hostname;
  const connection: ConnectionOptions = {
    host,
    port: url.port === '' ? 443 : Number(url.port),
    ALPNProtocols: ['http/1.1'],
    minVersion: 'TLSv1.2',
    ...(isIP(host) === 0 ? { servername: host } : {}),
    ...(isElsewhere ? { lookup: allowedLookup(redirectTargets.isFetchable, forbiddenTarget) } : {}),
  };
  if (profile.type === 'https_web') {
    // Said, because an environment variable (NODE_TLS_REJECT_UNAUTHORIZED) may have turned the default around.
    return opened(
      connect({ ...connection, rejectUnauthorized: true, ...(profile.webRoots === null ? {} : { ca: profile.webRoots }) }),
      signal,
    );
  }
  // OpenSSL knows nothing of SPIFFE IDs, and the host's name says nothing here: verifyEndpoint() is the whole check, on every connection.
  const socket = await opened(connect({ ...connection, rejectUnauthorized: false, checkServerIdentity: () => undefined }), signal);
  try {
    verifyEndpoint(url, socket, profile.endpointId, options);
    return socket;
  } catch (error) {
    socket.destroy();
    throw error;
  }
}

function opened(socket: TLSSocket, signal: AbortSignal): Promise<TLSSocket> {
  return new Promise((resolve, reject) => {
    const abort = (): void => void socket.destroy(new Error('it was given up'));
    signal.addEventListener('abort', abort, { once: true });
    if (signal.aborted) abort();
    socket.once('error', reject);
    socket.once('close', () => {
      signal.removeEventListener('abort', abort);
      reject(new Error('the connection ended'));
    });
    socket.once('secureConnect', () => resolve(socket));
  });
}

function forbiddenTarget(name: string): Error {
  return new Error(`the redirect to ${name} leads to an address that nothing is fetched from`);
}

/** SPIFFE_Federation.md section 5.2.2.4: a valid X.509-SVID with exactly the endpoint's SPIFFE ID, by the bundle of that ID's trust domain. */
function verifyEndpoint(url: URL, socket: TLSSocket, endpointId: string, { bundle, now }: FetchBundleOptions): void {
  const verifier = new SvidVerifier(
    {
      bundle: (trustDomain) => {
        const found = bundle(trustDomain);
        if (found === null) return null;
        return { trustDomain, ...found, sequence: 1 };
      },
    },
    { now, cacheSize: 0 },
  );
  try {
    const { text } = verifier.verify(peerChain(socket));
    if (text !== endpointId) throw failure(url.href, `its certificate is of ${text}, not of ${endpointId}`);
  } catch (error) {
    if (error instanceof CertsError) throw error;
    throw failure(url.href, errorText(error), error);
  }
}

function get(url: URL, socket: TLSSocket, signal: AbortSignal): Promise<IncomingMessage> {
  return new Promise((resolve, reject) => {
    const request = httpRequest(
      {
        createConnection: () => socket,
        path: `${url.pathname}${url.search}`,
        maxHeaderSize: MAX_HEADER_BYTES,
        headers: { host: url.host, accept: 'application/json', 'accept-encoding': 'identity', connection: 'close' },
        signal,
      },
      resolve,
    );
    request.on('error', reject);
    request.end();
  });
}

async function readBody(url: URL, response: IncomingMessage): Promise<string> {
  const encoding = response.headers['content-encoding'] ?? 'identity';
  if (encoding !== 'identity') throw failure(url.href, `the answer is encoded as ${JSON.stringify(encoding)}, which was not asked for`);
  const chunks: Buffer[] = [];
  let size = 0;
  for await (const chunk of response as AsyncIterable<Buffer>) {
    size += chunk.length;
    if (size > MAX_BUNDLE_LENGTH) throw failure(url.href, 'the answer is longer than 1 MiB');
    chunks.push(chunk);
  }
  if (!response.complete) throw failure(url.href, 'the answer was cut');
  try {
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(Buffer.concat(chunks));
  } catch (error) {
    throw failure(url.href, 'the answer is not UTF-8', error);
  }
}
