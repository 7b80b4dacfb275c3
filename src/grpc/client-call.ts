import { constants, type ClientHttp2Stream, type IncomingHttpHeaders } from 'node:http2';
import { GRPC_STATUS, GrpcStatusError } from './grpc-error.ts';
import { frameMessage, GRPC_CONTENT_TYPE, MessageFraming } from './message-framing.ts';
import { grpcStatusOfHttp, readStatusFields } from './wire-status.ts';

/**
 * One call at the client: an HTTP/2 stream, seen as messages and a status. Invariant: the stream is closed when answers() has returned or
 * thrown, whatever happened before.
 */
export class ClientCall {
  readonly #stream: ClientHttp2Stream;
  readonly #maxMessageBytes: number;
  readonly #isConnected: () => boolean;
  /** Why this side ended the call; what the stream says afterwards does not count. */
  #cancelled: GrpcStatusError | null = null;
  /** As the fields have said so far; undefined: nothing. */
  #status: GrpcStatusError | null | undefined;
  #failure: unknown;

  constructor(stream: ClientHttp2Stream, maxMessageBytes: number, isConnected: () => boolean) {
    this.#stream = stream;
    this.#maxMessageBytes = maxMessageBytes;
    this.#isConnected = isConnected;
    stream
      .on('error', (error) => {
        this.#failure = error;
      })
      .on('response', (headers) => this.#begin(headers))
      .on('trailers', (fields) => {
        this.#status ??= readStatusFields(fields);
      });
  }

  #begin(headers: IncomingHttpHeaders & { readonly ':status'?: number | undefined }): void {
    const { ':status': httpStatus = 0, 'content-type': contentType = '' } = headers;
    this.#status = readStatusFields(headers);
    const isGrpc = httpStatus === constants.HTTP_STATUS_OK && GRPC_CONTENT_TYPE.test(contentType);
    // A status of failure counts whatever it comes with; one of OK does not make gRPC of something else.
    if (isGrpc || this.#status instanceof GrpcStatusError) return;
    this.cancel(
      new GrpcStatusError(
        httpStatus === constants.HTTP_STATUS_OK ? GRPC_STATUS.UNKNOWN : grpcStatusOfHttp(httpStatus),
        `the answer is not gRPC: HTTP ${httpStatus}`,
      ),
    );
  }

  /** Ends the call from this side; answers() throws the error. */
  cancel(error: GrpcStatusError): void {
    if (this.#cancelled !== null) return;
    this.#cancelled = error;
    this.#reset();
  }

  /**
   * A reset is written at once. What runs here may run within a callback of node:http2, which is still reading: it would free a stream twice,
   * and abort the process (https://github.com/nodejs/node/issues/38964).
   */
  #reset(): void {
    setImmediate(() => this.#stream.close(constants.NGHTTP2_CANCEL));
  }

  /** Sends the only request. */
  send(message: Uint8Array): void {
    this.#stream.end(frameMessage(message));
  }

  /** Sends requests until they end, as fast as the server takes them. A failure of theirs cancels the call. */
  async sendAll(messages: AsyncIterable<Uint8Array>): Promise<void> {
    const stream = this.#stream;
    try {
      for await (const message of messages) {
        if (stream.destroyed || stream.closed) return;
        if (!stream.write(frameMessage(message))) await this.#drained();
      }
      if (!stream.destroyed) stream.end();
    } catch (cause) {
      this.cancel(new GrpcStatusError(GRPC_STATUS.CANCELLED, 'the requests failed', { cause }));
    }
  }

  #drained(): Promise<void> {
    const stream = this.#stream;
    return new Promise((resolve) => {
      const settle = (): void => {
        stream.off('drain', settle).off('close', settle);
        resolve();
      };
      stream.on('drain', settle).on('close', settle);
    });
  }

  /**
   * Answers as they come, read only as fast as they are taken; returns when the call ended with OK.
   * @throws GrpcStatusError with the status of the call
   */
  async *answers(): AsyncGenerator<Buffer> {
    const stream = this.#stream;
    const closed = stream.destroyed ? Promise.resolve() : new Promise<void>((resolve) => stream.once('close', () => resolve()));
    const framing = new MessageFraming(this.#maxMessageBytes);
    try {
      for await (const chunk of stream.iterator({ destroyOnReturn: false }) as AsyncIterable<Buffer>) {
        if (this.#cancelled !== null) break;
        yield* framing.push(chunk);
      }
    } catch (error) {
      if (error instanceof GrpcStatusError) this.cancel(error);
      else this.#failure ??= error;
    } finally {
      // Also when the caller stops reading: nobody is left to end it.
      if (!stream.readableEnded) this.#reset();
    }
    await closed;
    if (this.#cancelled !== null) throw this.#cancelled;
    if (this.#status === undefined) throw this.#lost();
    if (this.#status !== null) throw this.#status;
    if (framing.pending > 0) throw new GrpcStatusError(GRPC_STATUS.INTERNAL, 'the last message is cut');
  }

  /** The status of a stream that ended without one (grpc/doc/PROTOCOL-HTTP2.md, "Errors"). */
  #lost(): GrpcStatusError {
    const cause = this.#failure;
    // A connection that breaks resets its streams with CANCEL, which nobody sent.
    const code = this.#isConnected() ? this.#stream.rstCode : constants.NGHTTP2_NO_ERROR;
    switch (code) {
      case constants.NGHTTP2_CANCEL:
        return new GrpcStatusError(GRPC_STATUS.CANCELLED, 'the server cancelled the call', { cause });
      case constants.NGHTTP2_ENHANCE_YOUR_CALM:
        return new GrpcStatusError(GRPC_STATUS.RESOURCE_EXHAUSTED, 'the server had too many calls', { cause });
      case constants.NGHTTP2_INADEQUATE_SECURITY:
        return new GrpcStatusError(GRPC_STATUS.PERMISSION_DENIED, 'the connection is not secure enough for the server', { cause });
      case constants.NGHTTP2_PROTOCOL_ERROR:
      case constants.NGHTTP2_INTERNAL_ERROR:
      case constants.NGHTTP2_FLOW_CONTROL_ERROR:
      case constants.NGHTTP2_FRAME_SIZE_ERROR:
      case constants.NGHTTP2_COMPRESSION_ERROR:
        return new GrpcStatusError(GRPC_STATUS.INTERNAL, `the call was reset with HTTP/2 error ${code}`, { cause });
      default:
        return new GrpcStatusError(GRPC_STATUS.UNAVAILABLE, 'the connection was lost, or the server gave no status', { cause });
    }
  }
}
