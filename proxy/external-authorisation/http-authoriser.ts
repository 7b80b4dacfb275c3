import { Agent, type IncomingMessage, request as httpRequest } from 'node:http';
import type { Socket } from 'node:net';
import type { RequestHead } from '../../src/model/request-gate.ts';
import type { ExtensionProvider } from '../../src/model/resources.ts';
import { HeaderDraft } from '../gate/header-draft.ts';
import { isChangeable, isFieldValue } from '../gate/header-fields.ts';
import { AuthorisationError } from './authorisation-error.ts';
import { type CheckAnswer, finalStatus } from './check-messages.ts';

const MAX_BODY_BYTES = 64 * 1024;
const MAX_HEADER_BYTES = 16 * 1024;
const MAX_IDLE_CONNECTIONS = 16;
const MAX_CONNECTIONS = 128;
/** What an answer may name to have removed from the request, as with Envoy. */
const HEADERS_TO_REMOVE = 'x-envoy-auth-headers-to-remove';

/** One authoriser that is asked by HTTP/1.1 (ext_authz's HTTP service). */
export class HttpAuthoriser implements Disposable {
  readonly #provider: ExtensionProvider;
  readonly #agent: Agent;
  readonly #request: ReadonlySet<string>;
  readonly #upstream: ReadonlySet<string>;
  readonly #downstream: ReadonlySet<string>;

  constructor(provider: ExtensionProvider, dial: () => Socket) {
    this.#provider = provider;
    this.#request = lowerCase(provider.includeRequestHeaders);
    this.#upstream = lowerCase(provider.headersToUpstream);
    this.#downstream = lowerCase(provider.headersToDownstream);
    this.#agent = new Agent({ keepAlive: true, maxSockets: MAX_CONNECTIONS, maxFreeSockets: MAX_IDLE_CONNECTIONS, timeout: 60_000 });
    this.#agent.createConnection = () => dial();
  }

  /**
   * Asks with the request's own method, Host and path (behind `pathPrefix`), Authorization and the headers that were configured, without a body.
   * 200 allows; a 5xx is a failure, as with Envoy; any other status denies with what came.
   * @throws AuthorisationError or a network error
   */
  async check(head: RequestHead, signal: AbortSignal): Promise<CheckAnswer> {
    const response = await this.#sendAgain(head, signal);
    const status = response.statusCode ?? 0;
    if (status >= 500) {
      response.destroy();
      throw new AuthorisationError('WEFT_EXTAUTHZ_STATUS', `the authoriser answered ${status}`);
    }
    if (status === 200) {
      // To its end, so that the connection can be used again; a body that does not end is cut.
      await bodyOf(response);
      return { allow: true, change: this.#changeOf(response), refusal: null };
    }
    const headers = fieldsOf(response).filter(
      ([name]) => isChangeable(name) && name !== HEADERS_TO_REMOVE && (this.#downstream.size === 0 || this.#downstream.has(name)),
    );
    const body = await bodyOf(response);
    return { allow: false, change: null, refusal: { status: finalStatus(status), headers, body } };
  }

  /** An authoriser may close a kept connection just as it is used: what got no answer at all there is asked once more. */
  async #sendAgain(head: RequestHead, signal: AbortSignal): Promise<IncomingMessage> {
    const used = { before: false };
    try {
      return await this.#send(head, signal, used);
    } catch (error) {
      if (!used.before || (error as NodeJS.ErrnoException).code !== 'ECONNRESET') throw error;
      return this.#send(head, signal, used);
    }
  }

  #send(head: RequestHead, signal: AbortSignal, used: { before: boolean }): Promise<IncomingMessage> {
    const { pathPrefix, service, port } = this.#provider;
    const headers: Record<string, string | string[]> = { host: head.host === '' ? `${service}:${port}` : head.host, 'content-length': '0' };
    for (const name of ['authorization', ...this.#request]) {
      const values = head.header(name);
      if (values.length > 0 && isChangeable(name)) headers[name] = [...values];
    }
    const query = head.query === '' ? '' : `?${head.query}`;
    return new Promise((resolve, reject) => {
      const request = httpRequest({
        agent: this.#agent,
        method: head.method,
        path: `${pathPrefix}${head.path}${query}`,
        headers,
        signal,
        maxHeaderSize: MAX_HEADER_BYTES,
      });
      request.on('response', resolve);
      request.on('error', (error) => {
        used.before = request.reusedSocket;
        reject(error);
      });
      // An authoriser has no business with these.
      request.on('upgrade', (_response, socket) => socket.destroy());
      request.end();
    });
  }

  #changeOf(response: IncomingMessage): HeaderDraft | null {
    const draft = new HeaderDraft();
    for (const name of String(response.headers[HEADERS_TO_REMOVE] ?? '').split(',')) {
      const lower = name.trim().toLowerCase();
      if (isChangeable(lower)) draft.drop(lower);
    }
    for (const [name, value] of fieldsOf(response)) {
      if (!this.#upstream.has(name) || !isChangeable(name)) continue;
      // The first of a name takes the place of what the client sent; more of it come after.
      if (draft.set.some(([set]) => set === name)) draft.add(name, value);
      else draft.replace(name, value);
    }
    return draft.remove.length + draft.set.length === 0 ? null : draft;
  }

  [Symbol.dispose](): void {
    this.#agent.destroy();
  }
}

function lowerCase(names: readonly string[]): ReadonlySet<string> {
  return new Set(names.map((name) => name.toLowerCase()));
}

/** The fields of an answer in order; those with values that could not be forwarded are left out. */
function fieldsOf({ rawHeaders }: IncomingMessage): (readonly [string, string])[] {
  const fields: (readonly [string, string])[] = [];
  for (let i = 0; i + 1 < rawHeaders.length; i += 2) {
    const value = rawHeaders[i + 1] as string;
    if (isFieldValue(value)) fields.push([(rawHeaders[i] as string).toLowerCase(), value]);
  }
  return fields;
}

/** The body as text; '' when it is too long, or encoded. */
async function bodyOf(response: IncomingMessage): Promise<string> {
  if (response.headers['content-encoding'] !== undefined) {
    response.destroy();
    return '';
  }
  const chunks: Buffer[] = [];
  let size = 0;
  for await (const chunk of response as AsyncIterable<Buffer>) {
    size += chunk.length;
    if (size > MAX_BODY_BYTES) {
      response.destroy();
      return '';
    }
    chunks.push(chunk);
  }
  return Buffer.concat(chunks).toString('utf8');
}
