import { type IncomingMessage, request as httpRequest } from 'node:http';
import { join } from 'node:path';
import { ADMIN_SOCKET_NAME, type ErrorAnswer } from '../model/admin-api.ts';
import { AUTHORITY_SOCKET_NAME } from '../model/authority-api.ts';
import { CliError } from './cli-error.ts';

/** An answer lists connections and workloads: large, but not without end. */
const MAX_ANSWER_BYTES = 256 * 1024 * 1024;
const DEFAULT_TIMEOUT_MS = 10_000;

/** Who answers on a socket, for error texts. */
interface SocketOwner {
  readonly socketName: string;
  readonly name: 'agent' | 'authority';
  readonly codeWhenAway: string;
  readonly howToStart: string;
}

const AGENT: SocketOwner = {
  socketName: ADMIN_SOCKET_NAME,
  name: 'agent',
  codeWhenAway: 'WEFT_CLI_NO_AGENT',
  howToStart: 'start one with `weft agent --config DIR`, or name the directory of a running one with --run-dir',
};
const AUTHORITY: SocketOwner = {
  socketName: AUTHORITY_SOCKET_NAME,
  name: 'authority',
  codeWhenAway: 'WEFT_CLI_NO_AUTHORITY',
  howToStart: 'run this where the authority is: on the host of `weft ca serve`, or of an agent that has its own authority (see --run-dir)',
};

/** Asks the agent of this host, or the authority, through its socket. One connection for each request. */
export class AdminClient {
  readonly socketPath: string;
  readonly #owner: SocketOwner;

  constructor(runDirectory: string, owner: SocketOwner = AGENT) {
    this.socketPath = join(runDirectory, owner.socketName);
    this.#owner = owner;
  }

  /** For the certificate authority that has its socket in this directory. */
  static ofAuthority(runDirectory: string): AdminClient {
    return new AdminClient(runDirectory, AUTHORITY);
  }

  /** @throws CliError as request() does */
  get<Answer>(path: string, timeoutMs?: number): Promise<Answer> {
    return this.#request<Answer>('GET', path, null, timeoutMs);
  }

  /** @throws CliError as request() does */
  post<Answer>(path: string, body: unknown, timeoutMs?: number): Promise<Answer> {
    return this.#request<Answer>('POST', path, JSON.stringify(body), timeoutMs);
  }

  /** @throws CliError as request() does */
  async delete(path: string, timeoutMs?: number): Promise<void> {
    await this.#request('DELETE', path, null, timeoutMs);
  }

  /** True if something takes connections on the admin socket. */
  async answers(path = '/ready'): Promise<boolean> {
    try {
      await this.get(path);
      return true;
    } catch (error) {
      // Also an agent that is busy, or answers with an error, is one.
      return !(error instanceof CliError && error.code === this.#owner.codeWhenAway);
    }
  }

  /**
   * @throws CliError WEFT_CLI_NO_AGENT or WEFT_CLI_NO_AUTHORITY when nobody listens, WEFT_CLI_NOT_ALLOWED, WEFT_CLI_AGENT_ANSWER when the answer makes no sense or
   * does not come, and the agent's own code when it refuses
   */
  async #request<Answer>(method: string, path: string, body: string | null, timeoutMs: number = DEFAULT_TIMEOUT_MS): Promise<Answer> {
    let status: number;
    let text: string;
    try {
      const response = await this.#send(method, path, body, AbortSignal.timeout(timeoutMs));
      status = response.statusCode ?? 0;
      text = await readText(response);
    } catch (error) {
      throw this.#failure(error, timeoutMs);
    }
    let answer: unknown;
    try {
      answer = text === '' ? null : JSON.parse(text);
    } catch (cause) {
      throw this.#senseless(`not JSON (status ${status})`, cause);
    }
    // An agent that is not ready says so with 503 and the same kind of answer.
    if ((status >= 200 && status < 300) || (status === 503 && path === '/ready')) return answer as Answer;
    const { code, message, nextStep } = (answer ?? {}) as Partial<ErrorAnswer>;
    if (typeof code !== 'string' || typeof message !== 'string') throw this.#senseless(`status ${status}`);
    throw new CliError(code, message, typeof nextStep === 'string' ? { nextStep } : {});
  }

  #send(method: string, path: string, body: string | null, signal: AbortSignal): Promise<IncomingMessage> {
    const headers = body === null ? {} : { 'content-type': 'application/json', 'content-length': Buffer.byteLength(body) };
    return new Promise((resolve, reject) => {
      const request = httpRequest({ socketPath: this.socketPath, method, path, headers, signal, agent: false });
      request.on('error', reject);
      request.on('response', resolve);
      request.end(body ?? undefined);
    });
  }

  #failure(error: unknown, timeoutMs: number): CliError {
    const { code, name, message } = error as NodeJS.ErrnoException;
    if (code === 'ENOENT' || code === 'ECONNREFUSED' || code === 'ENOTDIR') {
      return new CliError(this.#owner.codeWhenAway, `no ${this.#owner.name} answers on ${this.socketPath}`, {
        cause: error,
        nextStep: this.#owner.howToStart,
      });
    }
    if (code === 'EACCES' || code === 'EPERM') {
      return new CliError('WEFT_CLI_NOT_ALLOWED', `this user may not open ${this.socketPath}`, {
        cause: error,
        nextStep: 'run it as root',
      });
    }
    if (name === 'AbortError' || name === 'TimeoutError') return this.#senseless(`nothing within ${timeoutMs / 1000} s`, error);
    return this.#senseless(message, error);
  }

  #senseless(what: string, cause?: unknown): CliError {
    return new CliError('WEFT_CLI_AGENT_ANSWER', `the ${this.#owner.name} on ${this.socketPath} gave no usable answer: ${what}`, {
      cause,
      nextStep: 'see its log; check that it is of the same version as this command',
    });
  }
}

async function readText(response: IncomingMessage): Promise<string> {
  const chunks: Buffer[] = [];
  let size = 0;
  for await (const chunk of response as AsyncIterable<Buffer>) {
    size += chunk.length;
    if (size > MAX_ANSWER_BYTES) throw new Error(`more than ${MAX_ANSWER_BYTES} bytes`);
    chunks.push(chunk);
  }
  return Buffer.concat(chunks).toString('utf8');
}
