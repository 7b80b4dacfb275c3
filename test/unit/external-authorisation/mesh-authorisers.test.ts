import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createServer as createHttpServer, type IncomingMessage, type RequestListener, type Server } from 'node:http';
import { createServer as createHttp2Server, type Http2Server, type IncomingHttpHeaders, type ServerHttp2Stream } from 'node:http2';
import { type AddressInfo, connect, createServer, type Server as NetServer, type Socket } from 'node:net';
import { describe, it } from 'node:test';
import type { ExtensionProvider } from '../../../src/model/resources.ts';
import type { Authorisation } from '../../../proxy/external-authorisation/external-authorisers.ts';
import { MeshAuthorisers } from '../../../proxy/external-authorisation/mesh-authorisers.ts';
import { ProtobufWriter } from '../../../src/grpc/protobuf.ts';
import { protobufFields } from '../../kit/protobuf-fields.ts';
import { CONNECTION, head, provider } from '../gate/fixtures.ts';

/** A provider's server and the authorisers that ask it. */
class World implements AsyncDisposable {
  readonly events: string[] = [];
  readonly authorisers: MeshAuthorisers;
  readonly #server: Server | Http2Server | NetServer;
  readonly #sockets = new Set<Socket>();
  dials = 0;
  lastDialled: Socket | null = null;

  private constructor(server: Server | Http2Server | NetServer, maxInFlight: number) {
    this.#server = server;
    server.on('connection', (socket: Socket) => this.#sockets.add(socket));
    this.authorisers = new MeshAuthorisers({
      dial: (service, port) => {
        this.dials++;
        this.lastDialled = connect(port, service);
        return this.lastDialled;
      },
      count: (_provider, event) => this.events.push(event),
      maxInFlight,
    });
  }

  static async open(server: Server | Http2Server | NetServer, maxInFlight = 1000): Promise<World> {
    const world = new World(server, maxInFlight);
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    return world;
  }

  check(change: Partial<ExtensionProvider> = {}, request = head()): Promise<Authorisation> {
    const { port } = this.#server.address() as AddressInfo;
    return this.authorisers.check(provider({ port, ...change }), request, CONNECTION);
  }

  dropConnections(): void {
    for (const socket of this.#sockets) socket.destroy();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.authorisers[Symbol.dispose]();
    this.dropConnections();
    this.#server.close();
    await once(this.#server, 'close');
  }
}

function http(listener: RequestListener, maxInFlight?: number): Promise<World> {
  return World.open(createHttpServer(listener), maxInFlight);
}

const FAILED = { allow: false, failed: true, reason: '', change: null, refusal: null };

function isFailure(answer: Authorisation): boolean {
  assert.deepEqual({ ...answer, reason: '' }, FAILED);
  return true;
}

describe('an HTTP authoriser', () => {
  it("is shown the request's line, Host, Authorization and the headers that were configured, and no more", async () => {
    let seen: IncomingMessage | null = null;
    await using world = await http((request, response) => {
      seen = request;
      response.end();
    });
    const request = head(
      [
        ['authorization', 'Basic x'],
        ['x-a', '1'],
        ['x-a', '2'],
        ['cookie', 'secret'],
        ['content-length', '12'],
      ],
      { method: 'POST', path: '/items', query: 'q=1' },
    );
    const answer = await world.check(
      { pathPrefix: '/check', includeRequestHeaders: ['X-A', 'Content-Length', 'transfer-encoding'] },
      request,
    );
    assert.equal(answer.allow, true);
    const { method, url, headers } = seen as unknown as IncomingMessage;
    assert.deepEqual([method, url], ['POST', '/check/items?q=1']);
    assert.deepEqual(headers, {
      host: 'items.shop',
      'content-length': '0',
      authorization: 'Basic x',
      'x-a': '1, 2',
      connection: 'keep-alive',
    });
  });

  it('allows with 200 alone, and hands on the headers that were configured', async () => {
    await using world = await http((_, response) => {
      response.setHeader('X-User', 'ann');
      response.setHeader('x-other', 'b');
      response.setHeader('x-envoy-auth-headers-to-remove', 'Cookie, host');
      response.end('ignored');
    });
    const { allow, change } = await world.check({ headersToUpstream: ['x-user', 'content-length', 'x-missing'] });
    assert.equal(allow, true);
    assert.deepEqual([...(change?.remove ?? [])].toSorted(), ['cookie', 'x-missing', 'x-user']);
    assert.deepEqual([...(change?.set ?? [])], [['x-user', 'ann']]);
  });

  it("removes a client's own header that only the provider may write and was not shown", async () => {
    await using world = await http((_, response) => response.end());
    const written = { headersToUpstream: ['X-User', 'authorization', 'x-shown'], includeRequestHeaders: ['x-shown'] };
    assert.deepEqual((await world.check(written)).change?.remove, ['x-user']);
    assert.deepEqual((await world.check({ ...written, port: 1, failOpen: true })).change?.remove, ['x-user']);
  });

  it('denies with any other status, with its headers and body', async () => {
    for (const status of [201, 204, 302, 401, 403, 404]) {
      await using world = await http((_, response) => {
        response.writeHead(status, { location: '/login', 'x-b': '1', connection: 'close' });
        response.end(status === 204 ? undefined : 'log in');
      });
      const { allow, failed, refusal } = await world.check({ headersToDownstream: ['Location', 'connection', 'content-length'] });
      assert.deepEqual([allow, failed], [false, false]);
      assert.deepEqual(refusal, { status, headers: [['location', '/login']], body: status === 204 ? '' : 'log in' });
    }
  });

  it('limits what a denial brings along', async () => {
    await using world = await http((_, response) => {
      response.writeHead(403, { 'x-a': 'b' });
      response.end('x'.repeat(65 * 1024));
    });
    const { refusal } = await world.check();
    assert.deepEqual([refusal?.status, refusal?.body], [403, '']);
    await using headers = await http((_, response) => response.writeHead(403, { 'x-a': 'b'.repeat(32 * 1024) }).end());
    assert.ok(isFailure(await headers.check()));
  });

  it('is closed when it fails: 5xx, silence, nobody there, a cut answer', async () => {
    await using failing = await http((_, response) => response.writeHead(503).end());
    await using silent = await http(() => {});
    await using cutting = await http((_, response) => {
      response.writeHead(200, { 'content-length': '10' });
      response.write('x');
      setImmediate(() => response.destroy());
    });
    await using endless = await http((_, response) => {
      response.writeHead(401);
      response.write('x');
    });
    assert.ok(isFailure(await failing.check()));
    assert.ok(isFailure(await silent.check({ timeoutMs: 50 })));
    assert.ok(isFailure(await endless.check({ timeoutMs: 50 })));
    assert.ok(isFailure(await cutting.check()));
    assert.ok(isFailure(await failing.check({ port: 1 })));
    assert.deepEqual(failing.events, ['failed', 'failed']);
    assert.equal((await silent.check({ timeoutMs: 50, failOpen: true })).allow, true);
  });

  it('does not pass on a target that would split the request', async () => {
    await using world = await http((_, response) => response.end());
    assert.ok(isFailure(await world.check({}, head([], { path: '/a b\r\nx: y' }))));
    assert.ok(isFailure(await world.check({ includeRequestHeaders: ['x-a'] }, head([['x-a', 'b\r\nc: d']]))));
  });

  it('is asked by a bounded number of requests at a time', async () => {
    const waiting: (() => void)[] = [];
    await using world = await http((_, response) => waiting.push(() => response.end()), 2);
    const answers = Array.from({ length: 3 }, () => world.check({ timeoutMs: 5_000 }));
    assert.ok(isFailure(await (answers[2] as Promise<Authorisation>)));
    assert.deepEqual(world.events, ['overload']);
    while (waiting.length < 2) await new Promise((resolve) => setTimeout(resolve, 5));
    for (const answer of waiting) answer();
    assert.equal((await (answers[0] as Promise<Authorisation>)).allow, true);
    assert.equal((await (answers[1] as Promise<Authorisation>)).allow, true);
    const again = world.check({ timeoutMs: 5_000 });
    while (waiting.length < 3) {
      assert.equal(world.events.filter((event) => event === 'overload').length, 1);
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
    waiting[2]?.();
    assert.equal((await again).allow, true);
  });

  it('is asked again when it had closed the kept connection', async () => {
    const sockets: Socket[] = [];
    await using world = await http((request, response) => {
      // The first connection takes one request; the second one it resets.
      if (sockets.includes(request.socket)) request.socket.resetAndDestroy();
      else response.end('ok');
      sockets.push(request.socket);
    });
    assert.equal((await world.check()).allow, true);
    assert.equal((await world.check()).allow, true);
    assert.equal(world.dials, 2);
  });

  it('keeps its connection, also over a new snapshot with the same provider', async () => {
    await using world = await http((_, response) => response.end('ok'));
    for (let i = 0; i < 5; i++) await world.check();
    assert.equal(world.dials, 1);
    await world.check({ timeoutMs: 501 });
    assert.equal(world.dials, 2);
  });
});

type Answer = (stream: ServerHttp2Stream, message: Buffer, headers: IncomingHttpHeaders) => void;

function grpc(answer: Answer): Promise<World> {
  const server = createHttp2Server();
  server.on('stream', (stream: ServerHttp2Stream, headers: IncomingHttpHeaders) => {
    const chunks: Buffer[] = [];
    stream.on('error', () => {});
    stream.on('data', (chunk: Buffer) => chunks.push(chunk));
    stream.on('end', () => answer(stream, Buffer.concat(chunks), headers));
  });
  return World.open(server);
}

function framed(message: Buffer): Buffer {
  const frame = Buffer.alloc(5);
  frame.writeUInt32BE(message.length, 1);
  return Buffer.concat([frame, message]);
}

function respond(stream: ServerHttp2Stream, body: Buffer, trailers: Record<string, string> = { 'grpc-status': '0' }): void {
  stream.respond({ ':status': 200, 'content-type': 'application/grpc' }, { waitForTrailers: true });
  stream.on('wantTrailers', () => stream.sendTrailers(trailers));
  stream.end(body);
}

const OK = new ProtobufWriter().message(1, () => {}).finish();
const DENIED = new ProtobufWriter()
  .message(1, (status) => status.varint(1, 7))
  .message(2, (denied) => denied.message(1, (status) => status.varint(1, 401)).string(3, 'who are you'))
  .finish();

describe('a gRPC authoriser', () => {
  const asGrpc = { protocol: 'grpc' } as const;

  it('is asked by one Check call for each request, on one connection', async () => {
    const asked: string[] = [];
    await using world = await grpc((stream, message, headers) => {
      asked.push(`${headers[':path']} ${headers['content-type']} ${headers.te}`);
      assert.equal(message.readUInt32BE(1), message.length - 5);
      assert.equal(protobufFields(message.subarray(5))[0]?.field, 1);
      respond(stream, framed(OK));
    });
    const answers = await Promise.all(Array.from({ length: 20 }, () => world.check(asGrpc)));
    assert.ok(answers.every(({ allow }) => allow));
    assert.deepEqual(new Set(asked), new Set(['/envoy.service.auth.v3.Authorization/Check application/grpc trailers']));
    assert.deepEqual([asked.length, world.dials], [20, 1]);
  });

  it("denies with the provider's own answer", async () => {
    await using world = await grpc((stream) => respond(stream, framed(DENIED)));
    const { allow, failed, refusal } = await world.check(asGrpc);
    assert.deepEqual([allow, failed], [false, false]);
    assert.deepEqual(refusal, { status: 401, headers: [], body: 'who are you' });
  });

  it('is closed when it fails, in whatever way', async () => {
    const bad: Record<string, Answer> = {
      'a gRPC error': (stream) => respond(stream, framed(OK), { 'grpc-status': '14' }),
      'no gRPC status': (stream) => respond(stream, framed(OK), {}),
      'trailers only': (stream) => stream.respond({ ':status': 200, 'grpc-status': '12' }, { endStream: true }),
      'an HTTP error': (stream) => stream.respond({ ':status': 503 }, { endStream: true }),
      'an HTTP error with a gRPC status of OK': (stream) => {
        stream.respond({ ':status': 500, 'content-type': 'application/grpc', 'grpc-status': '0' });
        stream.end(framed(OK));
      },
      'no gRPC with a gRPC status of OK': (stream) => {
        stream.respond({ ':status': 200, 'content-type': 'text/plain', 'grpc-status': '0' });
        stream.end(framed(OK));
      },
      'no message': (stream) => respond(stream, Buffer.alloc(0)),
      'an empty message': (stream) => respond(stream, framed(Buffer.alloc(0))),
      'two messages': (stream) => respond(stream, Buffer.concat([framed(OK), framed(OK)])),
      'a compressed message': (stream) => respond(stream, Buffer.concat([Buffer.from([1]), framed(OK).subarray(1)])),
      'a cut message': (stream) => respond(stream, framed(DENIED).subarray(0, 9)),
      nonsense: (stream) => respond(stream, framed(Buffer.from('nonsense'))),
      'too many fields': (stream) => respond(stream, framed(Buffer.from(`${'2200'.repeat(2_100)}0a00`, 'hex'))),
      'too much': (stream) => respond(stream, framed(Buffer.alloc(300_000))),
      'a reset': (stream) => stream.close(2),
      silence: () => {},
    };
    for (const [name, answer] of Object.entries(bad)) {
      await using world = await grpc(answer);
      assert.ok(isFailure(await world.check({ ...asGrpc, timeoutMs: 100 })), name);
      assert.deepEqual(world.events, ['failed'], name);
    }
  });

  it('is connected to again when the connection was lost', async () => {
    await using world = await grpc((stream) => respond(stream, framed(OK)));
    assert.equal((await world.check(asGrpc)).allow, true);
    world.dropConnections();
    await new Promise((resolve) => setTimeout(resolve, 300));
    assert.equal((await world.check(asGrpc)).allow, true);
    assert.equal(world.dials, 2);
  });

  it('is connected to again when it has gone silent', async () => {
    let silent = true;
    await using world = await grpc((stream) => {
      if (!silent) respond(stream, framed(OK));
    });
    assert.ok(isFailure(await world.check({ ...asGrpc, timeoutMs: 60 })));
    silent = false;
    assert.equal((await world.check({ ...asGrpc, timeoutMs: 60 })).allow, true);
    assert.equal(world.dials, 2);
  });

  it('leaves no connection behind when it never says a word, nor closes it', async () => {
    await using world = await World.open(createServer(() => {}));
    assert.ok(isFailure(await world.check({ ...asGrpc, timeoutMs: 60 })));
    const socket = world.lastDialled as Socket;
    if (!socket.closed) await once(socket, 'close', { signal: AbortSignal.timeout(2_000) });
  });

  it('is not dialled by every request while nobody is there', async () => {
    await using world = await grpc(() => {});
    const answers = [];
    for (let i = 0; i < 20; i++) answers.push(await world.check({ ...asGrpc, port: 1 }));
    assert.ok(answers.every((answer) => isFailure(answer)));
    assert.equal(world.dials, 1);
  });

  it('fails when it speaks something else', async () => {
    await using world = await World.open(createServer((socket) => socket.end('SSH-2.0-x\r\n')));
    assert.ok(isFailure(await world.check(asGrpc)));
    assert.ok(isFailure(await world.check()));
  });
});

describe('providers that are gone', () => {
  it('take their connections along', async () => {
    await using world = await http((_, response) => response.end('ok'));
    await world.check();
    world.authorisers.retain([]);
    await world.check();
    assert.equal(world.dials, 2);
    world.authorisers.retain([provider()]);
    await world.check();
    assert.equal(world.dials, 2);
  });
});
