import { type ClientRequest, type IncomingMessage, request as httpRequest } from 'node:http';
import type { Socket } from 'node:net';
import { FakeSocket } from './request-oracle.ts';

/** What a client made of the bytes that it was sent. */
export interface ReadResponse {
  /** Of the final response; 0 when none was read. 101 counts as final. */
  readonly status: number;
  readonly bodyBytes: number;
  /** The final response was read to its end. */
  readonly complete: boolean;
  /** Why reading stopped; null when nothing was wrong. */
  readonly error: string | null;
}

/**
 * Reads the response to one request with llhttp, as the client of node:http uses it.
 * @param isOrderly the bytes are followed by an orderly end of the connection, not by a reset
 */
export function readResponseWithLlhttp(bytes: Buffer, method: string, isOrderly: boolean): Promise<ReadResponse> {
  const { promise, resolve } = Promise.withResolvers<ReadResponse>();
  const socket = new FakeSocket();
  let status = 0;
  let bodyBytes = 0;
  let complete = false;
  let error: string | null = null;
  const fail = (failure: Error & { code?: string }): void => {
    error ??= failure.code ?? failure.message;
  };
  const client: ClientRequest = httpRequest({ createConnection: () => socket as unknown as Socket, method });
  client.on('response', (response: IncomingMessage) => {
    status = response.statusCode ?? 0;
    response.on('data', (chunk: Buffer) => {
      bodyBytes += chunk.length;
    });
    response.on('end', () => {
      complete = response.complete;
    });
    response.on('error', fail);
  });
  client.on('upgrade', (response: IncomingMessage) => {
    status = response.statusCode ?? 0;
    complete = true;
  });
  client.on('error', fail);
  socket.on('error', () => {});
  client.end();
  setImmediate(() => {
    socket.push(bytes);
    setImmediate(() => {
      if (isOrderly) socket.push(null);
      else socket.destroy(new Error('reset'));
      setImmediate(() =>
        setImmediate(() => {
          client.destroy();
          socket.destroy();
          resolve({ status, bodyBytes, complete, error });
        }),
      );
    });
  });
  return promise;
}
