import assert from 'node:assert/strict';
import { generateKeyPairSync, type KeyObject, sign } from 'node:crypto';
import { mkdirSync, writeFileSync } from 'node:fs';
import { createServer, type IncomingMessage, type RequestListener, type Server } from 'node:http';
import { constants } from 'node:http2';
import { after, before, describe, it } from 'node:test';
import type { StateAnswer } from '../../src/model/admin-api.ts';
import { GrpcMessages, grpcMessage } from '../kit/grpc-messages.ts';
import { LabAuthority } from '../kit/hbone.ts';
import { type Http2Call, Http2Client } from '../kit/http2-client.ts';
import { app, type Child, type LabPod, type ResourceDocument } from '../kit/lab/index.ts';
import { Mesh, readAccessLog } from '../kit/mesh.ts';
import { PodNetwork } from '../kit/pod-network.ts';

const HTTP2_PORT = 8081;
const WEBSOCKET_PORT = 8082;
const GRPC_PORT = 8083;
const NGINX_PORT = 8090;
const NGINX_HTTP2_PORT = 8091;
const TLS_PORT = 8443;
const BANNER_PORT = 2525;
const KEYS_PORT = 9000;
const AUTHORISER_PORT = 9001;
/** Nobody listens there. */
const DEAD_PORT = 9002;

const CLIENT = 'cluster.local/ns/shop/sa/client';
const FAMILIES = ['v4', 'v6'] as const;
/** Debian's own: the one that Debian's grpc is for. */
const PYTHON = '/usr/bin/python3';
const GRPC_ECHO = new URL('../kit/apps/grpc-echo.py', import.meta.url).pathname;

let mesh: Mesh;
let http2: Http2Client;
/** Paths with which a test finds its own lines in the log. */
let unique = 0;

function path(prefix = '/public'): string {
  return `${prefix}/${++unique}`;
}

function policy(
  name: string,
  action: 'ALLOW' | 'DENY' | 'AUDIT' | 'CUSTOM',
  rules: readonly object[],
  more: { readonly provider?: string; readonly dryRun?: boolean } = {},
): ResourceDocument {
  const { provider, dryRun = false } = more;
  return {
    apiVersion: 'security.istio.io/v1',
    kind: 'AuthorizationPolicy',
    metadata: { name, namespace: 'shop', ...(dryRun ? { annotations: { 'istio.io/dry-run': 'true' } } : {}) },
    spec: { action, rules, ...(provider === undefined ? {} : { provider: { name: provider } }) },
  };
}

function meshConfig(spec: object): ResourceDocument {
  return { apiVersion: 'weft.dev/v1', kind: 'MeshConfig', metadata: { name: 'mesh', namespace: 'istio-system' }, spec };
}

/** Makes a change of the configuration, and waits until both agents have it in force. */
async function change(make: () => void): Promise<void> {
  const agents = [mesh.agentA, mesh.agentB];
  const versions = await Promise.all(agents.map(async (agent) => (await agent.json<StateAnswer>('/v1/state')).snapshotVersion));
  make();
  await Promise.all(
    agents.map((agent, index) => agent.waitForState('has the change', ({ snapshotVersion }) => snapshotVersion > (versions[index] ?? 0))),
  );
}

/** Puts this into the configuration for as long as the body takes. */
async function withConfig<T>(content: string | readonly ResourceDocument[], body: () => Promise<T>): Promise<T> {
  await change(() => mesh.config.apply('l7', content));
  try {
    return await body();
  } finally {
    await change(() => mesh.config.remove('l7'));
  }
}

/** For the tests of one describe(). */
function configured(content: readonly ResourceDocument[]): void {
  before(() => change(() => mesh.config.apply('l7', content)));
  after(() => change(() => mesh.config.remove('l7')));
}

/** The status that curl in the client gets. */
async function status(url: string, ...args: readonly string[]): Promise<number> {
  return (await mesh.curl(mesh.client, url, ...args)).status;
}

interface Seen {
  readonly path: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: string;
  readonly remoteAddress: string;
}

/** What the application saw of a request that it got. */
async function seen(url: string, ...args: readonly string[]): Promise<Seen> {
  const answer = await mesh.curl(mesh.client, url, ...args);
  assert.equal(answer.status, 200, answer.body + answer.result.stderr);
  return JSON.parse(answer.body) as Seen;
}

/** A server in the test itself that nodes reach at node-a's address. */
async function serveOnNode(port: number, listener: RequestListener): Promise<Server> {
  using network = new PodNetwork(mesh.nodeA);
  const server = createServer(listener);
  await new Promise<void>((resolve) => server.listen({ fd: network.listener(port) }, resolve));
  return server;
}

/** nginx that stores what is PUT, and answers GET with it. */
async function startNginx(pod: LabPod): Promise<Child> {
  const directory = `${mesh.nodeB.directory}/nginx`;
  mkdirSync(`${directory}/files`, { recursive: true, mode: 0o700 });
  const temporary = ['proxy', 'fastcgi', 'uwsgi', 'scgi'].map((name) => `${name}_temp_path ${directory}/${name};`).join('\n');
  writeFileSync(
    `${directory}/nginx.conf`,
    `user root;
daemon off;
worker_processes 1;
pid ${directory}/nginx.pid;
events { worker_connections 1024; }
http {
  access_log off;
  ${temporary}
  client_body_temp_path ${directory}/body;
  default_type text/plain;
  server {
    listen [::]:${NGINX_PORT} ipv6only=off;
    listen [::]:${NGINX_HTTP2_PORT} ipv6only=off http2;
    client_max_body_size 16m;
    location / { root ${directory}/files; dav_methods PUT; create_full_put_path on; }
  }
}
`,
  );
  return pod.spawn(['nginx', '-p', directory, '-c', `${directory}/nginx.conf`, '-e', 'stderr']);
}

before(async () => {
  mesh = await Mesh.start({ mode: 'strict' });
  const certificate = await (await LabAuthority.open(mesh.lab)).issue('shop', 'far');
  const files = [`${mesh.nodeB.directory}/https.crt`, `${mesh.nodeB.directory}/https.key`] as const;
  writeFileSync(files[0], certificate.cert, { mode: 0o600 });
  writeFileSync(files[1], certificate.key, { mode: 0o600 });
  const servers = [mesh.near, mesh.far].flatMap((pod) => [
    pod.spawn(app('http2-server', HTTP2_PORT)),
    pod.spawn(app('websocket-server', WEBSOCKET_PORT)),
    pod.spawn(app('https-server', TLS_PORT, ...files)),
    pod.spawn([PYTHON, GRPC_ECHO, 'serve', String(GRPC_PORT)]),
  ]);
  servers.push(mesh.far.spawn(app('banner-server', BANNER_PORT)));
  await Promise.all([
    ...servers.map(async (server) => (await server).waitForLine(/listening/)),
    startNginx(mesh.far),
    Http2Client.start(mesh.client).then((started) => (http2 = started)),
  ]);
});
after(async () => {
  await mesh?.[Symbol.asyncDispose]();
});

/** Both ways to a server: on the client's own node, and through a tunnel. */
function ways(): readonly (readonly [way: string, server: () => LabPod])[] {
  return [
    ['on one node', () => mesh.near],
    ['through a tunnel', () => mesh.far],
  ];
}

const GRPC = { ':method': 'POST', 'content-type': 'application/grpc', te: 'trailers' };

function messages({ body }: Http2Call): string[] {
  return new GrpcMessages().push(body);
}

describe('HTTP/2', () => {
  configured([
    policy('http2', 'ALLOW', [
      {
        from: [{ source: { principals: [CLIENT] } }],
        to: [{ operation: { methods: ['GET', 'POST'], paths: ['/public/*'] } }],
      },
    ]),
  ]);

  for (const [way, server] of ways()) {
    for (const family of FAMILIES) {
      it(`with prior knowledge is allowed and refused request by request (${way}, ${family})`, async () => {
        const allowed = path();
        const url = (what: string): string => mesh.url(server(), what, family, HTTP2_PORT);
        const answer = await mesh.curl(mesh.client, url(allowed), '--http2-prior-knowledge', '--data', 'a body');
        assert.equal(answer.status, 200, answer.result.stderr);
        assert.match(answer.headers, /^HTTP\/2 200/);
        const saw = JSON.parse(answer.body) as Seen;
        assert.equal(saw.body, 'a body');
        assert.equal(saw.remoteAddress, mesh.client.addresses[family]);
        const line = await mesh.accessLog(server() === mesh.near ? mesh.agentA : mesh.agentB, (found) => found.path === allowed);
        assert.equal(line.protocol, 'http2');
        assert.equal(line.policy, 'shop/http2');
        assert.equal(line.source.identity, `spiffe://${CLIENT}`);
        const refused = await mesh.curl(mesh.client, url('/private'), '--http2-prior-knowledge');
        assert.equal(refused.status, 403);
        assert.match(refused.headers, /x-weft-denied-by: shop\/http2/);
        assert.match(refused.body, /shop\/http2/);
      });
    }

    it(`carries many streams of one connection at once, and refuses only those that are forbidden (${way})`, async () => {
      const calls = await Promise.all(
        Array.from({ length: 60 }, (_, index) => {
          const target = index % 3 === 0 ? '/private' : `/public/${index}`;
          return http2.request(mesh.url(server(), target, 'v4', HTTP2_PORT), { ':method': 'POST' }, `${index} `.repeat(5000));
        }),
      );
      for (const [index, call] of calls.entries()) {
        assert.equal(call.status, index % 3 === 0 ? 403 : 200);
        if (index % 3 !== 0) assert.equal((JSON.parse(call.body.toString()) as Seen).body, `${index} `.repeat(5000));
      }
    });
  }

  it('of nginx at the other end, and of h2load at this one', async () => {
    const load = await mesh.client.exec(['h2load', '-n200', '-c4', '-m10', mesh.url(mesh.far, '/public/none', 'v4', NGINX_HTTP2_PORT)]);
    assert.match(load.stdout, /200 total, 200 started, 200 done, 0 succeeded, 200 failed, 0 errored/);
    assert.match(load.stdout, /0 2xx, 0 3xx, 200 4xx/, 'there is no such file');
    const refused = await mesh.curl(mesh.client, mesh.url(mesh.far, '/private', 'v4', NGINX_HTTP2_PORT), '--http2-prior-knowledge');
    assert.match(refused.headers, /^HTTP\/2 403 [^]*x-weft-denied-by: shop\/http2/);
  });
});

describe('gRPC', () => {
  const METHODS = ['Unary', 'Count', 'Collect', 'Talk', 'Fail'].map((method) => `/echo.Echo/${method}`);
  configured([
    policy('grpc', 'ALLOW', [{ from: [{ source: { principals: [CLIENT] } }], to: [{ operation: { methods: ['POST'], paths: METHODS } }] }]),
  ]);

  for (const [way, server] of ways()) {
    it(`goes through with messages, trailers and deadline as they are (${way})`, async () => {
      const call = async (method: string, ...texts: string[]): Promise<Http2Call> =>
        http2.request(
          mesh.url(server(), `/echo.Echo/${method}`, 'v4', HTTP2_PORT),
          { ...GRPC, 'grpc-timeout': '5S' },
          Buffer.concat(texts.map(grpcMessage)),
        );
      const unary = await call('Unary', 'hello');
      assert.deepEqual(messages(unary), ['hello']);
      assert.equal(unary.trailers?.['grpc-status'], '0');
      assert.equal(unary.head['x-seen-timeout'], '5S');
      assert.deepEqual(
        messages(await call('Count', '300')),
        Array.from({ length: 300 }, (_, index) => String(index + 1)),
      );
      assert.deepEqual(messages(await call('Collect', 'a', 'b', 'c')), ['a b c']);
      const failed = await call('Fail', 'x');
      assert.equal(failed.trailers?.['grpc-status'], '5');
      assert.equal(failed.trailers?.['grpc-message'], 'no such thing');
    });

    it(`is full duplex: each message is answered before the next is sent (${way})`, async () => {
      const talk = http2.open(mesh.url(server(), '/echo.Echo/Talk', 'v6', HTTP2_PORT), GRPC);
      for (let count = 1; count <= 5; count++) {
        talk.write(grpcMessage(`message ${count}`));
        await talk.until(`answered ${count} times`, (found) => messages(found).length === count);
      }
      await talk.end().closed();
      assert.equal(talk.trailers?.['grpc-status'], '0');
    });

    it(`is refused with PERMISSION_DENIED in trailers-only form that names the policy (${way})`, async () => {
      const target = path('/echo.Echo/Secret');
      const refused = await http2.request(mesh.url(server(), target, 'v4', HTTP2_PORT), GRPC, grpcMessage('hello'));
      assert.equal(refused.status, 200);
      assert.equal(refused.head['grpc-status'], '7');
      assert.match(String(refused.head['grpc-message']), /shop\/grpc/);
      assert.equal(refused.head['x-weft-denied-by'], 'shop/grpc');
      assert.equal(refused.trailers, null);
      assert.equal(refused.body.length, 0);
      const line = await mesh.accessLog(server() === mesh.near ? mesh.agentA : mesh.agentB, (found) => found.path === target);
      assert.deepEqual([line.protocol, line.grpc_status, line.verdict, line.policy], ['grpc', 7, 'deny', 'shop/grpc']);
    });

    it(`works between a client and a server of gRPC's own library (${way})`, async () => {
      const call = async (method: string, ...texts: string[]): Promise<string[]> => {
        const { v4 } = server().addresses;
        const result = await mesh.client.exec([PYTHON, GRPC_ECHO, 'call', `${v4}:${GRPC_PORT}`, method, ...texts]);
        assert.equal(result.code, 0, result.stderr);
        return result.stdout.trimEnd().split('\n');
      };
      const [unary, count, collect, talk, fail, secret] = await Promise.all([
        call('Unary', 'hello'),
        call('Count', '50'),
        call('Collect', 'a', 'b'),
        call('Talk', 'one', 'two', 'three'),
        call('Fail', 'x'),
        call('Secret', 'x'),
      ]);
      assert.deepEqual(unary, ['hello', 'x-deadline=yes', 'status OK']);
      assert.deepEqual([count.length, count[49], count[50]], [51, '50', 'status OK']);
      assert.deepEqual(collect, ['a b', 'status OK']);
      assert.deepEqual(talk, ['one', 'two', 'three', 'status OK']);
      assert.deepEqual(fail, ['status NOT_FOUND no such thing: §']);
      assert.match(secret.join('\n'), /^status PERMISSION_DENIED .*shop\/grpc/);
    });

    it(`ends an open stream that a new policy forbids, and carries on with the others of its connection (${way})`, async () => {
      const url = (method: string): string => mesh.url(server(), `/echo.Echo/${method}`, 'v4', HTTP2_PORT);
      const forbidden = http2.open(url('Talk'), GRPC).write(grpcMessage('a'));
      const kept = http2.open(url('Collect'), GRPC).write(grpcMessage('b'));
      await forbidden.until('answered', (call) => messages(call).length === 1);
      mesh.config.apply('later', [policy('later', 'DENY', [{ to: [{ operation: { paths: ['*/Talk'] } }] }])]);
      try {
        await forbidden.closed();
        assert.equal(forbidden.code, constants.NGHTTP2_CANCEL);
        assert.equal(forbidden.trailers, null, 'it did not end as if all were well');
        await kept.write(grpcMessage('c')).end().closed();
        assert.deepEqual(messages(kept), ['b c']);
        assert.equal((await http2.request(url('Talk'), GRPC)).head['x-weft-denied-by'], 'shop/later');
        const line = await mesh.accessLog(
          server() === mesh.near ? mesh.agentA : mesh.agentB,
          (found) => found.policy === 'shop/later' && found.kind === 'request',
        );
        assert.equal(line.verdict, 'deny');
      } finally {
        await change(() => mesh.config.remove('later'));
      }
    });
  }
});

describe('HTTP/1.1 with nginx behind it', () => {
  configured([policy('files', 'ALLOW', [{ to: [{ operation: { methods: ['GET', 'PUT'], paths: ['/files/*'] } }] }])]);

  for (const family of FAMILIES) {
    it(`takes an upload in chunks, as long as it is (${family})`, async () => {
      const file = path('/files');
      const body = 'all work and no play\n'.repeat(40_000);
      const url = mesh.url(mesh.far, file, family, NGINX_PORT);
      const put = await mesh.client.exec(
        ['curl', '-sS', '-w', '%{http_code}', '-T', '-', '-H', 'Transfer-Encoding: chunked', '-H', 'Expect:', url],
        { input: body },
      );
      assert.equal(put.stdout, '201', put.stderr);
      assert.equal((await mesh.client.exec(['curl', '-sS', url])).stdout, body);
    });
  }

  it('asks the server before it takes a body that the client wants to be asked for', async () => {
    const put = async (target: string): Promise<string> => {
      const url = mesh.url(mesh.far, target, 'v4', NGINX_PORT);
      const command = ['curl', '-sSv', '-o', '/dev/null', '-w', '%{http_code} %{size_upload} %{time_total}', '--expect100-timeout', '8'];
      const body = ['-X', 'PUT', '-H', 'Expect: 100-continue', '--data-binary', 'x'.repeat(1000)];
      const result = await mesh.client.exec([...command, ...body, url]);
      assert.equal(result.code, 0, result.stderr);
      if (target.startsWith('/files')) assert.match(result.stderr, /< HTTP\/1\.1 100 Continue/);
      const [code = '', size = '', seconds = ''] = result.stdout.split(' ');
      assert.ok(Number(seconds) < 6, 'nobody waits for the client to lose its patience');
      return `${code} ${size}`;
    };
    assert.equal(await put(path('/files')), '201 1000');
    assert.equal(await put('/private'), '403 0', 'a refused request has no use for its body');
  });

  it('keeps a connection through allowed and refused requests', async () => {
    const urls = ['/files/none', '/private', '/files/none'].map((target) => mesh.url(mesh.far, target, 'v4', NGINX_PORT));
    const silent = urls.flatMap((url) => ['-o', '/dev/null', url]);
    const { stdout } = await mesh.client.exec(['curl', '-sS', '-w', '%{http_code} %{num_connects}\n', ...silent]);
    assert.equal(stdout, '404 1\n403 0\n404 0\n');
  });
});

describe('a WebSocket', () => {
  configured([policy('chat', 'ALLOW', [{ to: [{ operation: { methods: ['GET'], paths: ['/chat'], ports: [String(WEBSOCKET_PORT)] } }] }])]);

  function open(server: LabPod, target: string, family: 'v4' | 'v6' = 'v4'): Promise<Child> {
    const url = mesh.url(server, target, family, WEBSOCKET_PORT).replace('http', 'ws');
    return mesh.client.spawn(app('websocket-client', url), { stdin: 'pipe' });
  }

  for (const [way, server] of ways()) {
    it(`opens, carries messages, closes in order, and is refused at the upgrade (${way})`, async () => {
      const opening = FAMILIES.map((family) => open(server(), '/chat', family));
      await using refused = await open(server(), '/admin');
      for (const each of opening) {
        await using client = await each;
        await client.waitForLine(/^open$/);
        client.input?.write('hello\n');
        await client.waitForLine(/^message hello$/);
        client.input?.end();
        await client.waitForLine(/^close 1005$/);
      }
      await refused.waitForLine(/^close 1006$/);
      assert.doesNotMatch(refused.stdout, /^open$/m);
      const upgrade = ['-H', 'Connection: Upgrade', '-H', 'Upgrade: websocket', '-H', 'Sec-WebSocket-Version: 13'];
      const answer = await mesh.curl(mesh.client, mesh.url(server(), '/admin', 'v4', WEBSOCKET_PORT), ...upgrade);
      assert.match(answer.headers, /^HTTP\/1\.1 403 [^]*x-weft-denied-by: shop\/chat/i);
    });

    it(`ends when the policy does not allow it any more (${way})`, async () => {
      await using client = await open(server(), '/chat');
      await client.waitForLine(/^open$/);
      try {
        await change(() => mesh.config.apply('other', [policy('other', 'DENY', [{ to: [{ operation: { paths: ['/elsewhere'] } }] }])]));
        client.input?.write('still here\n');
        await client.waitForLine(/^message still here$/);
        mesh.config.apply('other', [policy('other', 'DENY', [{ to: [{ operation: { paths: ['/chat'] } }] }])]);
        await client.waitForLine(/^close 1006$/);
      } finally {
        await change(() => mesh.config.remove('other'));
      }
    });
  }
});

describe('what a policy can ask of a request', () => {
  it('path templates: {*} is one segment, {**} any number', async () => {
    const rules = [{ to: [{ operation: { paths: ['/orders/{*}/items', '/files/{**}/list'] } }] }];
    await withConfig([policy('templates', 'ALLOW', rules)], async () => {
      const expected = {
        '/orders/7/items': 200,
        '/orders/7/8/items': 403,
        '/orders//items': 403,
        '/orders/7/items/': 403,
        '/files/a/b/c/list': 200,
        '/files/a/list/more': 403,
        '/orders/%2e%2e/items': 403,
      };
      for (const [target, wanted] of Object.entries(expected)) {
        assert.equal(await status(mesh.url(mesh.far, target), '--path-as-is'), wanted, target);
      }
    });
  });

  it('conditions on headers, which see every value', async () => {
    const rules = [
      {
        when: [
          { key: 'request.headers[x-tier]', values: ['gold', 'silver-*'] },
          { key: 'request.headers[x-debug]', notValues: ['on'] },
        ],
      },
    ];
    await withConfig([policy('tiers', 'ALLOW', rules)], async () => {
      const url = mesh.url(mesh.near, '/');
      assert.equal(await status(url), 403);
      assert.equal(await status(url, '-H', 'X-Tier: gold'), 200);
      assert.equal(await status(url, '-H', 'x-tier: silver-2'), 200);
      assert.equal(await status(url, '-H', 'x-tier: bronze'), 403);
      assert.equal(await status(url, '-H', 'x-tier: gold', '-H', 'X-Debug: on'), 403);
      assert.equal(await status(url, '-H', 'x-tier: gold', '-H', 'X-Debug: off', '-H', 'X-DEBUG: on'), 403);
    });
  });

  it('remoteIpBlocks: X-Forwarded-For counts only from trusted proxies, and only their part of it', async () => {
    const blocks = policy('office', 'ALLOW', [{ from: [{ source: { remoteIpBlocks: ['203.0.113.0/24'] } }] }]);
    const forwarded = (text: string): Promise<number> => status(mesh.url(mesh.far), '-H', `X-Forwarded-For: ${text}`);
    await withConfig([blocks], async () => {
      assert.equal(await forwarded('203.0.113.7'), 403, 'nobody is trusted');
    });
    await withConfig([blocks, meshConfig({ numTrustedProxies: 1 })], async () => {
      assert.equal(await forwarded('203.0.113.7'), 200);
      assert.equal(await forwarded('203.0.113.7, 198.51.100.1'), 403, 'the client wrote the first one itself');
      assert.equal(await forwarded('198.51.100.1, 203.0.113.7'), 200);
      assert.equal(await status(mesh.url(mesh.far)), 403);
    });
  });

  it('the address of an untrusted header is replaced, identity headers of clients do not get through', async () => {
    const saw = await seen(
      mesh.url(mesh.far, '/'),
      '-H',
      'X-Forwarded-Client-Cert: URI=spiffe://cluster.local/ns/shop/sa/admin',
      '-H',
      'X-Weft-Anything: x',
      '-H',
      'X-Mine: y',
    );
    assert.equal(saw.headers['x-forwarded-client-cert'], undefined);
    assert.equal(saw.headers['x-weft-anything'], undefined);
    assert.equal(saw.headers['x-mine'], 'y');
  });

  it('paths as they are normalised, at the level of the mesh; the application gets what was decided about', async () => {
    const deny = policy('no-admin', 'DENY', [{ to: [{ operation: { paths: ['/admin', '/admin/*', '/a/b'] } }] }]);
    const answers = async (...targets: string[]): Promise<(string | number)[]> => {
      const found: (string | number)[] = [];
      for (const target of targets) {
        const { status: code, body } = await mesh.curl(mesh.client, mesh.url(mesh.far, target), '--path-as-is');
        found.push(code === 200 ? (JSON.parse(body) as Seen).path : code);
      }
      return found;
    };
    const targets = ['/x/../admin', '/%61dmin', '//admin/x', '/a%2Fb', '/a%2fb%5cc', '/ok//twice'] as const;
    await withConfig([deny], async () => {
      assert.deepEqual(await answers(...targets), [403, 403, '//admin/x', '/a%2Fb', '/a%2fb%5cc', '/ok//twice']);
    });
    await withConfig([deny, meshConfig({ pathNormalization: { normalization: 'MERGE_SLASHES' } })], async () => {
      assert.deepEqual(await answers(...targets), [403, 403, 403, '/a%2Fb', '/a%2fb%5cc', '/ok/twice']);
    });
    await withConfig([deny, meshConfig({ pathNormalization: { normalization: 'DECODE_AND_MERGE_SLASHES' } })], async () => {
      assert.deepEqual(await answers(...targets), [403, 403, 403, 403, '/a/b/c', '/ok/twice']);
    });
  });
});

interface Key {
  readonly privateKey: KeyObject;
  readonly jwks: string;
}

function makeKey(id: string): Key {
  const { privateKey, publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  return { privateKey, jwks: JSON.stringify({ keys: [{ ...publicKey.export({ format: 'jwk' }), kid: id, alg: 'ES256', use: 'sig' }] }) };
}

function token({ privateKey }: Key, kid: string, claims: object): string {
  const encode = (part: object): string => Buffer.from(JSON.stringify(part)).toString('base64url');
  const signed = `${encode({ alg: 'ES256', kid, typ: 'JWT' })}.${encode({ exp: Math.floor(Date.now() / 1000) + 600, ...claims })}`;
  return `${signed}.${sign('sha256', Buffer.from(signed), { key: privateKey, dsaEncoding: 'ieee-p1363' }).toString('base64url')}`;
}

function bearer(text: string): [string, string] {
  return ['-H', `Authorization: Bearer ${text}`];
}

describe('tokens', () => {
  const ISSUER = 'https://login.example';
  const key = makeKey('k1');
  const stranger = makeKey('k1');

  function authentication(rule: object): ResourceDocument {
    return {
      apiVersion: 'security.istio.io/v1',
      kind: 'RequestAuthentication',
      metadata: { name: 'login', namespace: 'shop' },
      spec: { jwtRules: [{ issuer: ISSUER, ...rule }] },
    };
  }
  const needsToken = policy('needs-token', 'ALLOW', [
    { to: [{ operation: { paths: ['/open'] } }] },
    {
      from: [{ source: { requestPrincipals: [`${ISSUER}/ann`] } }],
      to: [{ operation: { paths: ['/private'] } }],
      when: [{ key: 'request.auth.claims[groups]', values: ['staff'] }],
    },
  ]);

  for (const [way, server] of ways()) {
    it(`that are good are identities; none is none; bad ones are refused with 401 (${way})`, async () => {
      await withConfig([authentication({ audiences: ['shop'], jwks: key.jwks }), needsToken], async () => {
        const get = (target: string, claims: object | null, signer = key): Promise<number> =>
          status(mesh.url(server(), target), ...(claims === null ? [] : bearer(token(signer, 'k1', claims))));
        const ann = { iss: ISSUER, sub: 'ann', aud: 'shop', groups: ['staff', 'buyers'] };
        assert.equal(await get('/open', null), 200);
        assert.equal(await get('/private', null), 403);
        assert.equal(await get('/private', ann), 200);
        assert.equal(await get('/private', { ...ann, sub: 'bob' }), 403);
        assert.equal(await get('/private', { ...ann, groups: ['buyers'] }), 403);
        assert.equal(await get('/open', { ...ann, exp: 1 }), 401);
        assert.equal(await get('/open', { ...ann, aud: 'bank' }), 401);
        assert.equal(await get('/open', { ...ann, iss: 'https://evil.example' }), 401);
        assert.equal(await get('/open', ann, stranger), 401);
        const garbled = await mesh.curl(mesh.client, mesh.url(server(), '/open'), ...bearer('x.y.z'));
        assert.equal(garbled.status, 401);
        assert.match(garbled.headers, /www-authenticate: Bearer [^\r]*invalid_token/i);
      });
    });
  }

  it('stay with the mesh unless they are to be forwarded, and claims go where they should', async () => {
    const bearing = bearer(token(key, 'k1', { iss: ISSUER, sub: 'ann' }));
    const spoofed = ['-H', 'X-User: root'];
    await withConfig([authentication({ jwks: key.jwks, outputClaimToHeaders: [{ header: 'x-user', claim: 'sub' }] })], async () => {
      const saw = await seen(mesh.url(mesh.far), ...bearing, ...spoofed);
      assert.equal(saw.headers['authorization'], undefined);
      assert.equal(saw.headers['x-user'], 'ann');
      assert.equal((await seen(mesh.url(mesh.far), ...spoofed)).headers['x-user'], undefined);
    });
    await withConfig([authentication({ jwks: key.jwks, forwardOriginalToken: true })], async () => {
      assert.equal((await seen(mesh.url(mesh.far), ...bearing)).headers['authorization'], bearing[1].slice('Authorization: '.length));
    });
  });

  it('are refused over gRPC with UNAUTHENTICATED', async () => {
    await withConfig([authentication({ jwks: key.jwks })], async () => {
      const call = (claims: object): Promise<Http2Call> =>
        http2.request(
          mesh.url(mesh.far, '/echo.Echo/Unary', 'v4', HTTP2_PORT),
          { ...GRPC, authorization: `Bearer ${token(key, 'k1', claims)}` },
          grpcMessage('hello'),
        );
      assert.equal((await call({ iss: ISSUER, exp: 1 })).head['grpc-status'], '16');
      assert.deepEqual(messages(await call({ iss: ISSUER })), ['hello']);
    });
  });

  it('are verified with keys that the agent fetches; without keys they are refused', async () => {
    const asked: string[] = [];
    const server = await serveOnNode(KEYS_PORT, (request, response) => {
      asked.push(request.url ?? '');
      response.end(key.jwks);
    });
    try {
      const { v4 } = mesh.nodeA.addresses;
      const bearing = bearer(token(key, 'k1', { iss: ISSUER, sub: 'ann' }));
      await withConfig([authentication({ jwksUri: `http://${v4}:${KEYS_PORT}/keys` })], async () => {
        for (const pod of [mesh.near, mesh.far]) {
          assert.equal(await status(mesh.url(pod), ...bearing), 200);
          assert.equal(await status(mesh.url(pod), ...bearer(token(stranger, 'k1', { iss: ISSUER }))), 401);
        }
      });
      assert.ok(asked.length >= 1 && asked.every((url) => url === '/keys'));
      await withConfig([authentication({ jwksUri: `http://${v4}:${DEAD_PORT}/keys` })], async () => {
        assert.equal(await status(mesh.url(mesh.far), ...bearing), 401);
        assert.equal(await status(mesh.url(mesh.far)), 200);
      });
    } finally {
      server.closeAllConnections();
      server.close();
    }
  });
});

describe('an external authoriser', () => {
  const asked: IncomingMessage[] = [];
  let authoriser: Server;
  before(async () => {
    authoriser = await serveOnNode(AUTHORISER_PORT, (request, response) => {
      asked.push(request);
      if (request.headers['x-user'] === 'ann') {
        response.writeHead(200, { 'x-auth-user': 'Ann', 'x-other': 'not asked for' }).end();
      } else {
        response.writeHead(418, { 'x-why': 'unknown user', 'content-type': 'text/plain' }).end('who are you?\n');
      }
    });
  });
  after(() => {
    authoriser?.closeAllConnections();
    authoriser?.close();
  });

  function config(port: number, failOpen = false): ResourceDocument[] {
    const http = {
      service: mesh.nodeA.addresses.v4,
      port,
      failOpen,
      timeout: '2s',
      pathPrefix: '/check',
      includeRequestHeadersInCheck: ['x-user'],
      headersToUpstreamOnAllow: ['x-auth-user'],
    };
    return [
      meshConfig({ extensionProviders: [{ name: 'authz', envoyExtAuthzHttp: http }] }),
      policy('ask', 'CUSTOM', [{ to: [{ operation: { paths: ['/asked/*'] } }] }], { provider: 'authz' }),
    ];
  }

  it('allows with headers of its own, denies with its own answer, and is not asked about the rest', async () => {
    await withConfig(config(AUTHORISER_PORT), async () => {
      for (const [, server] of ways()) {
        const target = path('/asked');
        const saw = await seen(mesh.url(server(), target), '-H', 'X-User: ann', '-H', 'X-Auth-User: root');
        assert.equal(saw.headers['x-auth-user'], 'Ann');
        assert.equal(saw.headers['x-other'], undefined);
        assert.equal(asked.at(-1)?.url, `/check${target}`);
        const denied = await mesh.curl(mesh.client, mesh.url(server(), path('/asked')), '-H', 'X-User: eve');
        assert.equal(denied.status, 418);
        assert.match(denied.headers, /x-why: unknown user/i);
        assert.match(denied.headers, /x-weft-denied-by: shop\/ask/i);
        assert.equal(denied.body, 'who are you?\n');
        const before = asked.length;
        assert.equal(await status(mesh.url(server(), '/free')), 200);
        assert.equal(asked.length, before);
      }
      const call = await http2.request(mesh.url(mesh.far, '/asked/h2', 'v4', HTTP2_PORT), { 'x-user': 'ann' });
      assert.equal((JSON.parse(call.body.toString()) as Seen).headers['x-auth-user'], 'Ann');
      assert.equal((await http2.request(mesh.url(mesh.far, '/asked/h2', 'v4', HTTP2_PORT))).status, 418);
    });
  });

  it('that is away refuses, unless it was said otherwise', async () => {
    await withConfig(config(DEAD_PORT), async () => {
      const target = path('/asked');
      assert.equal(await status(mesh.url(mesh.far, target), '-H', 'X-User: ann'), 403);
      const line = await mesh.accessLog(mesh.agentB, (found) => found.path === target);
      assert.deepEqual([line.policy, line.reason], ['shop/ask', 'the external authoriser could not be asked']);
      assert.equal(await status(mesh.url(mesh.far, '/free')), 200);
    });
    await withConfig(config(DEAD_PORT, true), async () => {
      const saw = await seen(mesh.url(mesh.far, path('/asked')), '-H', 'X-Auth-User: root');
      assert.equal(saw.headers['x-auth-user'], undefined, 'nobody checked it');
    });
  });
});

describe('a policy that is tried before it counts', () => {
  it('refuses nothing; log and counter say what it would have refused, and what an AUDIT rule matched', async () => {
    const rules = [{ to: [{ operation: { methods: ['PATCH'] } }] }, { to: [{ operation: { paths: ['/dry/*'] } }] }];
    const documents = [
      policy('stricter', 'DENY', rules, { dryRun: true }),
      policy('only-get', 'ALLOW', [{ to: [{ operation: { methods: ['GET'], paths: ['/elsewhere'] } }] }], { dryRun: true }),
      policy('watch', 'AUDIT', [{ to: [{ operation: { methods: ['DELETE'] } }] }]),
    ];
    await withConfig(documents, async () => {
      for (const [way, server] of ways()) {
        const agent = server() === mesh.near ? mesh.agentA : mesh.agentB;
        const [dry, free] = [path('/dry'), '/elsewhere'];
        assert.equal(await status(mesh.url(server(), dry), '-X', 'DELETE'), 200, way);
        const line = await mesh.accessLog(agent, (found) => found.path === dry);
        assert.equal(line.verdict, 'allow');
        const tried = new Map(line.dry_run?.map((each) => [each.policy, each]));
        assert.deepEqual([...tried.keys()].toSorted(), ['shop/only-get', 'shop/stricter', 'shop/watch']);
        const { reason, ...what } = tried.get('shop/stricter') ?? { reason: '' };
        assert.deepEqual(what, { policy: 'shop/stricter', rule: 1, effect: 'deny' });
        assert.match(reason, /DENY|den/);
        assert.equal(tried.get('shop/watch')?.effect, 'audit');
        assert.equal(tried.get('shop/only-get')?.rule, null);

        const http2Dry = path('/dry');
        assert.equal((await http2.request(mesh.url(server(), http2Dry, 'v4', HTTP2_PORT))).status, 200);
        assert.equal((await mesh.accessLog(agent, (found) => found.path === http2Dry)).dry_run?.length, 2);

        assert.equal(await status(mesh.url(server(), free)), 200);
        assert.equal((await mesh.accessLog(agent, (found) => found.path === free)).dry_run, undefined);
        const { body } = await agent.get('/metrics');
        assert.match(body, /^weft_dry_run_total\{[^}]*effect="deny"[^}]*\} 4$/m);
        assert.match(body, /^weft_dry_run_total\{[^}]*effect="audit"[^}]*\} 1$/m);
      }
    });
  });
});

describe('what is not HTTP', () => {
  function forPort(port: number, operation: object = {}): ResourceDocument {
    return policy('bytes', 'ALLOW', [
      { from: [{ source: { principals: [CLIENT] } }], to: [{ operation: { ports: [String(port)], ...operation } }] },
    ]);
  }

  it('TLS passes through untouched under a policy of connections; one of requests cannot allow it', async () => {
    const get = (pod: LabPod, family: 'v4' | 'v6'): ReturnType<LabPod['exec']> =>
      mesh.client.exec(['curl', '-sSk', '--max-time', '5', mesh.url(pod, '/x', family, TLS_PORT).replace('http', 'https')]);
    await withConfig([forPort(TLS_PORT)], async () => {
      for (const family of FAMILIES) {
        for (const pod of [mesh.near, mesh.far]) assert.equal((await get(pod, family)).stdout, 'secret /x\n');
      }
      const line = await mesh.accessLog(mesh.agentB, (found) => found.destination.port === TLS_PORT);
      assert.deepEqual([line.kind, line.protocol, line.verdict, line.policy], ['connection', 'tls', 'allow', 'shop/bytes']);
    });
    await withConfig([forPort(TLS_PORT, { methods: ['GET'] })], async () => {
      for (const pod of [mesh.near, mesh.far]) {
        const refused = await get(pod, 'v4');
        assert.notEqual(refused.code, 0);
        assert.equal(refused.stdout, '');
      }
      const line = await mesh.accessLog(mesh.agentB, (found) => found.destination.port === TLS_PORT && found.verdict === 'deny');
      assert.match(line.reason ?? '', /ALLOW|allow/);
    });
  });

  it('a server that speaks first is heard, and its client answered', async () => {
    await withConfig([forPort(BANNER_PORT)], async () => {
      const script = `
        const started = performance.now();
        const socket = require('node:net').connect(${BANNER_PORT}, '${mesh.far.addresses.v4}');
        let text = '';
        let waited = 0;
        socket.on('data', (data) => {
          waited ||= performance.now() - started;
          text += data;
          if (text.endsWith('welcome\\r\\n')) socket.write('hello\\r\\n');
          if (text.endsWith('hello\\r\\n')) socket.write('bye\\r\\n');
        }).on('close', () => console.log(JSON.stringify({ text, waited })));`;
      const { stdout } = await mesh.client.exec([process.execPath, '-e', script]);
      const { text, waited } = JSON.parse(stdout) as { text: string; waited: number };
      assert.equal(text, '220 welcome\r\n250 you said hello\r\n221 bye\r\n');
      assert.ok(waited < 3_000, 'nobody waited for a client that has nothing to say');
      const line = await mesh.accessLog(mesh.agentB, (found) => found.destination.port === BANNER_PORT);
      assert.deepEqual([line.protocol, line.verdict], ['tcp', 'allow']);
    });
  });
});

describe('a rule that cannot be read', () => {
  const DENY = `apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: broken, namespace: shop}
spec:
  action: DENY
  rules:
  - to: [{operation: {paths: [/secret]}}]
  - to: [{operation: {pathz: [/other]}}]
`;

  it('fails closed by itself, and the state names file and line until it is repaired', async () => {
    await withConfig(DENY, async () => {
      const answer = await mesh.curl(mesh.client, mesh.url(mesh.far, '/innocent'));
      assert.equal(answer.status, 403);
      assert.match(answer.headers, /x-weft-denied-by: shop\/broken/i);
      const { problems } = await mesh.agentB.json<StateAnswer>('/v1/state');
      assert.match(problems.join('\n'), /l7\.yaml:8:\d+: spec\.rules\[1\]\.to\[0\]\.operation\.pathz/);
      await change(() => mesh.config.apply('l7', DENY.replace('pathz', 'paths')));
      assert.equal(await status(mesh.url(mesh.far, '/innocent')), 200);
      assert.equal(await status(mesh.url(mesh.far, '/secret')), 403);
      assert.equal(await status(mesh.url(mesh.far, '/other')), 403);
      assert.deepEqual((await mesh.agentB.json<StateAnswer>('/v1/state')).problems, []);
    });
  });

  it('of an ALLOW policy allows nothing, while the rules beside it do', async () => {
    await withConfig(DENY.replace('DENY', 'ALLOW'), async () => {
      assert.equal(await status(mesh.url(mesh.far, '/secret')), 200);
      assert.equal(await status(mesh.url(mesh.far, '/other')), 403);
    });
  });
});

describe('secrets of requests', () => {
  it('are in no log: tokens, header values and queries', () => {
    for (const agent of [mesh.agentA, mesh.agentB]) {
      const lines = JSON.stringify(readAccessLog(agent));
      assert.ok(lines.length > 1000);
      assert.doesNotMatch(lines, /eyJ[\w-]+\.|unknown user|silver-2/);
    }
  });
});
