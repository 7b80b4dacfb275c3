import { request as httpRequest, type IncomingMessage } from 'node:http';
import { request as httpsRequest, type RequestOptions } from 'node:https';
import { isIP } from 'node:net';
import { allowedLookup } from '../../certs/allowed-lookup.ts';
import { isFetchable } from '../config/fetchable-address.ts';
import { AgentError } from './agent-error.ts';

const TIMEOUT_MS = 5_000;
const MAX_BYTES = 1024 * 1024;
const MAX_REDIRECTS = 3;
const REDIRECTS: ReadonlySet<number> = new Set([301, 302, 303, 307, 308]);

export interface JwksFetcherOptions {
  /** Addresses that may be dialled. Default: isFetchable. */
  readonly allows?: (address: string) => boolean;
  readonly timeoutMs?: number;
  /** PEM roots for https; the machine's own when not given. */
  readonly roots?: string;
}

/**
 * Fetches JWK Sets. The URI is written by whoever may write a RequestAuthentication, and the agent runs in the node's own network: so nothing of
 * the node itself and no metadata service can be reached through it. The address is checked where it is dialled, after the name was resolved,
 * and a redirect may only lead to the same origin.
 * @throws AgentError WEFT_AGENT_JWKS with the reason
 */
export function createJwksFetcher(options: JwksFetcherOptions = {}): (uri: string) => Promise<string> {
  const { allows = isFetchable, timeoutMs = TIMEOUT_MS, roots } = options;
  const refused = (url: string): AgentError => failure(url, 'its address is not one that keys may be fetched from');
  const lookup = allowedLookup(allows, refused);

  async function fetchOnce(url: URL, signal: AbortSignal): Promise<{ text: string } | { location: string }> {
    const literal = url.hostname.startsWith('[') ? url.hostname.slice(1, -1) : url.hostname;
    if (isIP(literal) !== 0 && !allows(literal)) throw refused(url.href);
    const requestOptions: RequestOptions = {
      agent: false,
      // Said, because an environment variable (NODE_TLS_REJECT_UNAUTHORIZED) may have turned the default around.
      rejectUnauthorized: true,
      lookup,
      signal,
      headers: { accept: 'application/json', 'accept-encoding': 'identity' },
    };
    if (roots !== undefined) requestOptions.ca = roots;
    const response = await new Promise<IncomingMessage>((resolve, reject) => {
      const request = (url.protocol === 'https:' ? httpsRequest : httpRequest)(url, requestOptions, resolve);
      request.on('error', reject);
      request.end();
    });
    const status = response.statusCode ?? 0;
    if (REDIRECTS.has(status) && response.headers.location !== undefined) {
      response.destroy();
      return { location: response.headers.location };
    }
    if (status !== 200) {
      response.destroy();
      throw failure(url.href, `the answer is ${status}`);
    }
    return { text: await bodyText(url.href, response) };
  }

  return async (uri) => {
    const signal = AbortSignal.timeout(timeoutMs);
    try {
      let url = parseUri(uri);
      for (let redirects = 0; redirects <= MAX_REDIRECTS; redirects++) {
        const answer = await fetchOnce(url, signal);
        if ('text' in answer) return answer.text;
        const next = parseUri(answer.location, url);
        if (next.origin !== url.origin) throw failure(uri, 'it redirects to another origin');
        url = next;
      }
      throw failure(uri, `more than ${MAX_REDIRECTS} redirects`);
    } catch (error) {
      if (signal.aborted) throw failure(uri, `no answer within ${timeoutMs} ms`);
      throw error instanceof AgentError ? error : failure(uri, (error as Error).message, error);
    }
  };
}

function failure(uri: string, why: string, cause?: unknown): AgentError {
  return new AgentError('WEFT_AGENT_JWKS', `keys could not be fetched from ${JSON.stringify(uri.slice(0, 200))}: ${why}`, {
    nextStep: 'check jwksUri, and that this node can reach it; tokens of its issuer are refused while there are no keys',
    cause,
  });
}

function parseUri(text: string, base?: URL): URL {
  const url = URL.parse(text, base?.href);
  if (url === null || (url.protocol !== 'https:' && url.protocol !== 'http:')) throw failure(text, 'not an http or https URL');
  if (url.username !== '' || url.password !== '') throw failure(text, 'the URL holds a password');
  return url;
}

async function bodyText(uri: string, response: IncomingMessage): Promise<string> {
  const chunks: Buffer[] = [];
  let size = 0;
  for await (const chunk of response as AsyncIterable<Buffer>) {
    size += chunk.length;
    if (size > MAX_BYTES) throw failure(uri, 'the answer is longer than 1 MiB');
    chunks.push(chunk);
  }
  if (!response.complete) throw failure(uri, 'the answer was cut');
  return new TextDecoder('utf-8', { fatal: true }).decode(Buffer.concat(chunks));
}
