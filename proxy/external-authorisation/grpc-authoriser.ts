import { type ClientHttp2Session, connect, constants } from 'node:http2';
import type { Socket } from 'node:net';
import { FRAME_HEADER_BYTES, frameMessage } from '../../src/grpc/message-framing.ts';
import type { ConnectionAttributes } from '../../src/model/policy.ts';
import type { RequestHead } from '../../src/model/request-gate.ts';
import type { ExtensionProvider } from '../../src/model/resources.ts';
import { AuthorisationError } from './authorisation-error.ts';
import { type CheckAnswer, decodeCheckResponse, encodeCheckRequest } from './check-messages.ts';

const METHOD = '/envoy.service.auth.v3.Authorization/Check';
/** A header of the answer's own (64 KiB of body, and headers), more than any that makes sense. */
const MAX_ANSWER_BYTES = 256 * 1024;
/** After a connection failed, requests in this time fail at once instead of each trying for itself. */
const RECONNECT_PAUSE_MS = 250;

/** One authoriser that is asked by gRPC (ext_authz v3): one HTTP/2 connection, kept, and made anew when it is lost. */
export class GrpcAuthoriser implements Disposable {
  readonly #provider: ExtensionProvider;
  readonly #dial: () => Socket;
  readonly #destinationPrincipal: string;
  #session: ClientHttp2Session | null = null;
  #failedAt = Number.NEGATIVE_INFINITY;

  constructor(provider: ExtensionProvider, dial: () => Socket, destinationPrincipal = '') {
    this.#provider = provider;
    this.#dial = dial;
    this.#destinationPrincipal = destinationPrincipal;
  }

  /** @throws AuthorisationError or a network error */
  async check(head: RequestHead, connection: ConnectionAttributes, signal: AbortSignal): Promise<CheckAnswer> {
    const message = encodeCheckRequest(head, connection, this.#destinationPrincipal);
    const session = this.#connected();
    try {
      return decodeCheckResponse(await this.#call(session, message, signal));
    } catch (error) {
      // A connection that is dead without a word would swallow every later check too.
      if (signal.aborted && this.#session === session) {
        this.#session = null;
        session.close();
      }
      throw error;
    }
  }

  #call(session: ClientHttp2Session, message: Uint8Array, signal: AbortSignal): Promise<Buffer> {
    const { service, port, timeoutMs } = this.#provider;
    const stream = session.request(
      {
        ':method': 'POST',
        ':scheme': 'http',
        ':path': METHOD,
        ':authority': `${service}:${port}`,
        'content-type': 'application/grpc',
        te: 'trailers',
        'grpc-timeout': `${Math.min(timeoutMs, 99_999_999)}m`,
      },
      { signal },
    );
    return new Promise((resolve, reject) => {
      const chunks: Buffer[] = [];
      let size = 0;
      let httpStatus = 0;
      let grpcStatus: string | null = null;
      const fail = (why: string): void => {
        // Not within a callback of node:http2: a reset there may abort the process (https://github.com/nodejs/node/issues/38964).
        setImmediate(() => stream.close(constants.NGHTTP2_CANCEL));
        reject(new AuthorisationError('WEFT_EXTAUTHZ_ANSWER', why));
      };
      const status = (headers: Record<string, unknown>): void => {
        if (headers['grpc-status'] !== undefined) grpcStatus = String(headers['grpc-status']);
      };
      stream.on('response', (headers) => {
        httpStatus = headers[':status'] ?? 0;
        status(headers);
      });
      stream.on('trailers', status);
      stream.on('data', (chunk: Buffer) => {
        size += chunk.length;
        if (size > MAX_ANSWER_BYTES) fail('the answer is too long');
        else chunks.push(chunk);
      });
      stream.on('error', reject);
      stream.on('aborted', () => reject(new AuthorisationError('WEFT_EXTAUTHZ_ANSWER', 'the answer was cut')));
      stream.on('close', () => {
        // After an end that was reported this changes nothing.
        reject(new AuthorisationError('WEFT_EXTAUTHZ_ANSWER', 'the stream ended without an answer'));
      });
      stream.on('end', () => {
        if (httpStatus !== 200 || grpcStatus !== '0') {
          fail(`the call failed: HTTP ${httpStatus}, gRPC ${grpcStatus ?? 'without status'}`);
          return;
        }
        const answer = Buffer.concat(chunks);
        if (answer.length < FRAME_HEADER_BYTES || answer[0] !== 0 || answer.readUInt32BE(1) !== answer.length - FRAME_HEADER_BYTES) {
          fail('the answer is not one uncompressed message');
          return;
        }
        resolve(answer.subarray(FRAME_HEADER_BYTES));
      });
      stream.end(frameMessage(message));
    });
  }

  #connected(): ClientHttp2Session {
    const current = this.#session;
    if (current !== null && !current.closed && !current.destroyed) return current;
    if (performance.now() < this.#failedAt + RECONNECT_PAUSE_MS) {
      throw new AuthorisationError('WEFT_EXTAUTHZ_CONNECT', 'the connection failed just now');
    }
    const { service, port } = this.#provider;
    const authority = service.includes(':') ? `[${service}]` : service;
    const session = connect(`http://${authority}:${port}`, {
      createConnection: () => this.#dial(),
      settings: { enablePush: false },
      maxSessionMemory: 64,
    });
    const lose = (): void => {
      if (this.#session === session) this.#session = null;
    };
    session.on('error', () => {
      this.#failedAt = performance.now();
      lose();
    });
    session.on('goaway', lose);
    session.on('close', lose);
    // Streams in flight hold the process; an idle connection does not.
    session.unref();
    this.#session = session;
    return session;
  }

  [Symbol.dispose](): void {
    this.#session?.destroy();
    this.#session = null;
  }
}
