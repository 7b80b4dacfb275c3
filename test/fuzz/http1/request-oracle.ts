import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import { Duplex } from 'node:stream';
import { BodyFraming, MALFORMED } from '../../../proxy/http1/body-framing.ts';
import { DEFAULT_HTTP1_LIMITS } from '../../../proxy/http1/limits.ts';
import { parseRequestHead, RequestHead } from '../../../proxy/http1/request-head.ts';

/** What a parser made of one request. */
export interface ReadRequest {
  readonly method: string;
  readonly target: string;
  readonly host: string;
  readonly bodyBytes: number;
}

export interface Reading {
  /** The requests that were read whole. */
  readonly requests: readonly ReadRequest[];
  /** `METHOD target` of every head that was read, whether its body came or not. */
  readonly heads: readonly string[];
  /** Why reading stopped before the end of the bytes; null when it did not. */
  readonly error: string | null;
}

/** Chunk data bytes of a body, given that its framing is valid: what llhttp would hand out. */
function chunkedDataBytes(bytes: Buffer, start: number): number {
  let at = start;
  let total = 0;
  for (;;) {
    const lineEnd = bytes.indexOf('\r\n', at, 'latin1');
    const size = Number.parseInt(bytes.latin1Slice(at, lineEnd), 16);
    if (size === 0) return total;
    total += size;
    at = lineEnd + 2 + size + 2;
  }
}

/** Reads all requests in `bytes` with our codec. */
export function readWithWeft(bytes: Buffer): Reading {
  const requests: ReadRequest[] = [];
  const heads: string[] = [];
  const head = new RequestHead();
  const body = new BodyFraming(DEFAULT_HTTP1_LIMITS);
  let at = 0;
  while (at < bytes.length) {
    const headEnd = parseRequestHead(bytes, at, bytes.length, head, DEFAULT_HTTP1_LIMITS);
    if (headEnd === 0) break;
    if (headEnd < 0) return { requests, heads, error: head.refusal };
    heads.push(`${head.method} ${head.target}`);
    body.start(head.bodyLength);
    const end = body.advance(bytes, headEnd, bytes.length);
    if (end === MALFORMED) return { requests, heads, error: body.refusal };
    if (!body.done) break;
    const bodyBytes = head.bodyLength >= 0 ? head.bodyLength : chunkedDataBytes(bytes, headEnd);
    requests.push({ method: head.method, target: head.target, host: head.host, bodyBytes });
    at = end;
    // llhttp stops at any upgrade, also at one that is only taken out before forwarding.
    if (!head.keepAlive || (head.fields.upgrade && head.fields.connectionUpgrade)) break;
  }
  return { requests, heads, error: null };
}

/** A socket that a parser reads from and writes to nowhere. */
export class FakeSocket extends Duplex {
  override _read(): void {}
  override _write(_chunk: Buffer, _encoding: BufferEncoding, done: () => void): void {
    done();
  }
}

/** Reads all requests in `bytes` with llhttp, as the server of node:http uses it. */
export function readWithLlhttp(bytes: Buffer): Promise<Reading> {
  const { promise, resolve } = Promise.withResolvers<Reading>();
  const requests: ReadRequest[] = [];
  const heads: string[] = [];
  let error: string | null = null;
  const socket = new FakeSocket();
  const server = createServer({ keepAliveTimeout: 0, requestTimeout: 0, headersTimeout: 0, connectionsCheckingInterval: 2 ** 30 });
  const take = (request: IncomingMessage, response: ServerResponse | null): void => {
    let bodyBytes = 0;
    heads.push(`${request.method} ${request.url}`);
    request.on('data', (chunk: Buffer) => {
      bodyBytes += chunk.length;
    });
    request.on('end', () => {
      requests.push({
        method: request.method ?? '',
        target: request.url ?? '',
        host: (request.headers.host ?? '').toLowerCase(),
        bodyBytes,
      });
    });
    request.on('error', () => {});
    response?.end();
  };
  server.on('request', take);
  server.on('checkContinue', take);
  server.on('checkExpectation', take);
  server.on('upgrade', (request: IncomingMessage) => take(request, null));
  server.on('connect', () => {
    error ??= 'connect';
  });
  server.on('clientError', (parseError: Error & { code?: string }) => {
    error ??= parseError.code ?? parseError.message;
  });
  socket.on('error', () => {});
  server.emit('connection', socket);
  socket.push(bytes);
  // Responses are written to memory: two turns after the input everything that will be read has been.
  setImmediate(() =>
    setImmediate(() =>
      setImmediate(() => {
        socket.destroy();
        server.close();
        resolve({ requests, heads, error });
      }),
    ),
  );
  return promise;
}

/** llhttp knows a fixed list of methods; ours takes any token. Nothing follows from that difference. */
const KNOWN_METHODS = new Set(['GET', 'HEAD', 'POST', 'PUT', 'DELETE', 'PATCH', 'OPTIONS']);

/** Absolute-form is given to the application as it came by node:http. */
function inOriginForm(target: string): string {
  const match = /^https?:\/\/[^/?]*(.*)$/i.exec(target);
  if (match === null) return target;
  const path = match[1] as string;
  return path.startsWith('/') ? path : `/${path}`;
}

/**
 * The differential check: every request that our codec takes, llhttp takes too and reads the same.
 * @returns what differs, or null
 */
export async function difference(bytes: Buffer): Promise<string | null> {
  const ours = readWithWeft(bytes);
  if (ours.requests.length === 0) return null;
  const theirs = await readWithLlhttp(bytes);
  for (const [index, our] of ours.requests.entries()) {
    // From here on llhttp has stopped for a reason that is not ours.
    if (!KNOWN_METHODS.has(our.method)) return null;
    const their = theirs.requests[index];
    if (their === undefined) return `request ${index} ${JSON.stringify(our)}: llhttp says ${theirs.error ?? 'nothing'}`;
    const same =
      their.method === our.method &&
      inOriginForm(their.target) === our.target &&
      their.host === our.host &&
      their.bodyBytes === our.bodyBytes;
    if (!same) return `request ${index}: ours ${JSON.stringify(our)}, llhttp ${JSON.stringify(their)}`;
  }
  return null;
}
