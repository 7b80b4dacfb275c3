import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { closeSync, constants, mkdtempSync, openSync, readFileSync, readSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { setImmediate as turn, setTimeout as delay } from 'node:timers/promises';
import fc from 'fast-check';
import { AccessLog, type AccessLogConnection, type AccessLogRequest } from '../../../proxy/telemetry/access-log.ts';
import { COUNTERS } from '../../../proxy/telemetry/counter-table.ts';
import { CounterBlock } from '../../../proxy/telemetry/counters.ts';
import { jsonText } from '../../../proxy/telemetry/json-text.ts';
import type { WriteBytes } from '../../../proxy/telemetry/line-writer.ts';
import type { Decision } from '../../../src/model/policy.ts';

const decision: Decision = { verdict: 'deny', policy: 'shop/read-only', rule: null, reason: 'no ALLOW rule matched' };

const connection: AccessLogConnection = {
  direction: 'inbound',
  security: 'mtls',
  source: { address: '10.1.2.3', port: 40_000, workload: 'web', namespace: 'shop', identity: 'spiffe://td/ns/shop/sa/web' },
  destination: {
    address: 'fd00::1',
    port: 8080,
    service: 'shop/items',
    workload: 'items',
    namespace: 'shop',
    identity: 'spiffe://td/ns/shop/sa/items',
  },
};

function request(change: Partial<AccessLogRequest> = {}): AccessLogRequest {
  return {
    protocol: 'http1',
    decision,
    shadow: [],
    error: null,
    method: 'DELETE',
    path: '/items/1',
    host: 'items.shop',
    status: 403,
    requestBytes: 120,
    responseBytes: 95,
    durationMicroseconds: 87.6,
    ...change,
  };
}

/** Collects what is written; `fail` decides what becomes of each write. */
function fakeFile(fail: (length: number) => NodeJS.ErrnoException | number = (length) => length): {
  write: WriteBytes;
  text: () => string;
  writes: () => number;
} {
  let text = '';
  let writes = 0;
  return {
    write: (_fd, buffer, offset, length, _position, callback) => {
      writes++;
      const outcome = fail(length);
      if (typeof outcome === 'number') text += buffer.toString('latin1', offset, offset + outcome);
      setImmediate(() => (typeof outcome === 'number' ? callback(null, outcome) : callback(outcome, 0)));
    },
    text: () => text,
    writes: () => writes,
  };
}

function failure(code: string): NodeJS.ErrnoException {
  return Object.assign(new Error(code), { code });
}

function lines(text: string): Record<string, unknown>[] {
  assert.ok(text === '' || text.endsWith('\n'));
  return text
    .split('\n')
    .filter(Boolean)
    .map((line) => JSON.parse(line) as Record<string, unknown>);
}

/** A descriptor number that is no pipe; nothing is written to it. */
const NO_FD = -1;

function temporaryDirectory(test: TestContext): string {
  const directory = mkdtempSync(join(tmpdir(), 'weft-access-log-'));
  test.after(() => rmSync(directory, { recursive: true }));
  return directory;
}

describe('an access log line', () => {
  it('of a request has both ends, the decision and the exchange', async () => {
    const file = fakeFile();
    const log = new AccessLog(NO_FD, { write: file.write, clock: () => Date.UTC(2026, 10, 23, 7, 8, 9, 12) });
    log.request(log.prefix(connection), request());
    await log.close();
    assert.deepEqual(lines(file.text()), [
      {
        time: '2026-11-23T07:08:09.012Z',
        kind: 'request',
        direction: 'inbound',
        security: 'mtls',
        source: connection.source,
        destination: connection.destination,
        protocol: 'http1',
        verdict: 'deny',
        policy: 'shop/read-only',
        rule: null,
        reason: 'no ALLOW rule matched',
        method: 'DELETE',
        path: '/items/1',
        host: 'items.shop',
        status: 403,
        request_bytes: 120,
        response_bytes: 95,
        duration_us: 88,
      },
    ]);
  });

  it('of a request names what dry-run and AUDIT policies would have done, bounded, and nothing when there are none', async () => {
    const file = fakeFile();
    const log = new AccessLog(NO_FD, { write: file.write });
    const shadow = [
      { policy: 'shop/stricter', rule: 2, effect: 'deny', reason: 'matched a DENY rule' },
      { policy: 'shop/watch', rule: 0, effect: 'audit', reason: 'matched an AUDIT rule' },
    ] as const;
    log.request(log.prefix(connection), request({ shadow }));
    log.request(log.prefix(connection), request());
    const flood = { policy: 'p'.repeat(10_000), rule: null, effect: 'deny', reason: 'r'.repeat(10_000) } as const;
    log.request(log.prefix(connection), request({ shadow: Array.from({ length: 1000 }, () => flood) }));
    await log.close();
    const [first, second, third] = lines(file.text());
    assert.deepEqual(first?.['dry_run'], shadow);
    assert.equal(second !== undefined && 'dry_run' in second, false);
    assert.equal((third as { dry_run: unknown[] }).dry_run.length, 16);
    assert.ok(JSON.stringify(third).length < 16_384);
  });

  it('of a connection says what ended it', async () => {
    const file = fakeFile();
    const log = new AccessLog(NO_FD, { write: file.write });
    const plain: AccessLogConnection = {
      ...connection,
      security: 'plaintext',
      source: { address: '192.0.2.1', port: 1, workload: null, namespace: null, identity: null },
    };
    const end = { protocol: 'tcp', requestBytes: 1, responseBytes: 2, durationMicroseconds: 3 };
    log.connection(log.prefix(plain), { ...end, decision: null, error: 'WEFT_PROXY_NO_ENDPOINT: no endpoint' });
    log.connection(log.prefix(plain), { ...end, decision: null, error: null });
    log.connection(log.prefix(plain), { ...end, decision, error: 'reset' });
    await log.close();
    const written = lines(file.text());
    assert.deepEqual(
      written.map(({ kind, verdict, policy, reason, error }) => [kind, verdict, policy, reason, error]),
      [
        ['connection', 'error', null, 'WEFT_PROXY_NO_ENDPOINT: no endpoint', undefined],
        ['connection', 'none', null, null, undefined],
        ['connection', 'deny', 'shop/read-only', 'no ALLOW rule matched', 'reset'],
      ],
    );
    assert.deepEqual(written[0]?.['source'], plain.source);
  });

  it('never has a query, and no path where that is off', async () => {
    const file = fakeFile();
    const log = new AccessLog(NO_FD, { write: file.write });
    log.request(log.prefix(connection), request({ path: '/login?token=hunter2' }));
    await log.close();
    assert.equal(lines(file.text())[0]?.['path'], '/login');
    assert.ok(!file.text().includes('hunter2'));

    const secretive = fakeFile();
    const withoutPath = new AccessLog(NO_FD, { write: secretive.write, logPath: false });
    withoutPath.request(withoutPath.prefix(connection), request({ path: '/reset/hunter2' }));
    await withoutPath.close();
    assert.equal(lines(secretive.text())[0]?.['path'], null);
    assert.ok(!secretive.text().includes('hunter2'));
  });

  it('stays one line of bounded, valid JSON whatever bytes a client sends', async () => {
    const file = fakeFile();
    const log = new AccessLog(NO_FD, { write: file.write });
    const prefix = log.prefix(connection);
    const hostile = fc.oneof(
      fc.array(fc.integer({ min: 0, max: 255 }), { maxLength: 40 }).map((bytes) => String.fromCharCode(...bytes)),
      fc.string({ unit: 'binary' }),
      fc.constantFrom('","verdict":"allow', '\\', '\\"', '\n{"kind":"request"}\n', '\u2028', '\ud800', '\u0000'.repeat(9000)),
    );
    const sent: string[] = [];
    fc.assert(
      fc.property(hostile, hostile, hostile, (path, host, method) => {
        sent.push(path);
        log.request(prefix, request({ path, host, method, durationMicroseconds: Number.NaN, status: 0 }));
      }),
      { numRuns: 500 },
    );
    await log.close();
    assert.match(file.text(), /^[\x20-\x7e\n]*$/);
    const written = lines(file.text());
    assert.equal(written.length, sent.length);
    for (const [i, line] of written.entries()) {
      assert.equal(line['verdict'], 'deny');
      assert.equal(line['status'], null);
      const path = (sent[i] as string).split('?')[0] as string;
      assert.ok(path.startsWith(line['path'] as string));
      if (path.length < 300) assert.equal(line['path'], path);
    }
    assert.ok(
      Math.max(
        ...file
          .text()
          .split('\n')
          .map((line) => line.length),
      ) < 4096,
    );
  });
});

it('a JSON text is what JSON.parse reads back, cut only between characters', () => {
  fc.assert(
    fc.property(fc.string({ unit: 'binary', maxLength: 60 }), fc.nat(80), (text, maxLength) => {
      const literal = jsonText(text, maxLength);
      assert.ok(literal.length <= maxLength + 2);
      const read = JSON.parse(literal) as string;
      assert.ok(text.startsWith(read));
      if (maxLength >= 6 * text.length) assert.equal(read, text);
    }),
    { numRuns: 2000 },
  );
});

describe('the writer of the access log', () => {
  it('writes the lines of one turn of the event loop at once, and those of the next in another write', async () => {
    const file = fakeFile();
    const log = new AccessLog(NO_FD, { write: file.write });
    const prefix = log.prefix(connection);
    for (let i = 0; i < 50; i++) log.request(prefix, request());
    assert.equal(file.writes(), 0);
    await turn();
    await turn();
    assert.equal(file.writes(), 1);
    log.request(prefix, request());
    await log.close();
    assert.equal(file.writes(), 2);
    assert.equal(lines(file.text()).length, 51);
  });

  it('finishes short writes, and waits for a reader that takes nothing', async () => {
    let calls = 0;
    const file = fakeFile((length) => {
      calls++;
      if (calls % 3 === 1) return failure('EAGAIN');
      return Math.ceil(length / 2);
    });
    const log = new AccessLog(NO_FD, { write: file.write });
    for (let i = 0; i < 3; i++) log.request(log.prefix(connection), request({ path: `/${i}` }));
    await log.close(5000);
    assert.deepEqual(
      lines(file.text()).map(({ path }) => path),
      ['/0', '/1', '/2'],
    );
  });

  it('drops lines when the reader is too slow, counts them, and says so in the next line', async () => {
    let isStuck = true;
    const file = fakeFile((length) => (isStuck ? failure('EAGAIN') : length));
    const counters = CounterBlock.create();
    const log = new AccessLog(NO_FD, { write: file.write, counters, maxQueuedBytes: 4096 });
    const prefix = log.prefix(connection);
    for (let i = 0; i < 1000; i++) log.request(prefix, request());
    const taken = counters.get(COUNTERS.accessLogLines.first);
    const dropped = counters.get(COUNTERS.accessLogDropped.first);
    assert.equal(taken + dropped, 1000);
    assert.ok(taken > 0 && taken < 20);
    isStuck = false;
    await delay(60);
    log.request(prefix, request({ path: '/after' }));
    log.request(prefix, request({ path: '/later' }));
    await log.close();
    const written = lines(file.text());
    assert.equal(written.length, taken + 2);
    assert.equal(written.at(-2)?.['dropped_before'], dropped);
    assert.equal(written.at(-1)?.['dropped_before'], undefined);
  });

  it('loses the lines of a failed write only, and starts the next on a line of its own', async () => {
    const outcomes: (NodeJS.ErrnoException | number)[] = [10, failure('ENOSPC')];
    const file = fakeFile((length) => outcomes.shift() ?? length);
    const counters = CounterBlock.create();
    const log = new AccessLog(NO_FD, { write: file.write, counters });
    const prefix = log.prefix(connection);
    log.request(prefix, request());
    await delay(20);
    assert.equal(counters.get(COUNTERS.accessLogDropped.first), 1);
    log.request(prefix, request({ path: '/after' }));
    await log.close();
    const [broken, whole] = file.text().split('\n');
    assert.equal(broken?.length, 10);
    assert.equal((JSON.parse(whole as string) as Record<string, unknown>)['path'], '/after');
    assert.equal((JSON.parse(whole as string) as Record<string, unknown>)['dropped_before'], 1);
  });

  it('gives up on a stuck reader when it is closed, in time', async () => {
    const file = fakeFile(() => failure('EAGAIN'));
    const counters = CounterBlock.create();
    const log = new AccessLog(NO_FD, { write: file.write, counters });
    for (let i = 0; i < 5; i++) log.request(log.prefix(connection), request());
    const started = performance.now();
    await Promise.all([log.close(50), log.close(50)]);
    assert.ok(performance.now() - started < 1000);
    assert.equal(counters.get(COUNTERS.accessLogDropped.first), 5);
    log.request(log.prefix(connection), request());
    assert.equal(counters.get(COUNTERS.accessLogDropped.first), 6);
  });

  it('appends to a file', async (test) => {
    const path = join(temporaryDirectory(test), 'access.log');
    const fd = openSync(path, 'a');
    test.after(() => closeSync(fd));
    const log = new AccessLog(fd);
    const prefix = log.prefix(connection);
    for (let i = 0; i < 2000; i++) log.request(prefix, request({ path: `/${i}` }));
    await log.close();
    const written = lines(readFileSync(path, 'latin1'));
    assert.equal(written.length, 2000);
    assert.equal(written[1999]?.['path'], '/1999');
  });

  it('shares a pipe with another writer without mixing lines', async (test) => {
    const path = join(temporaryDirectory(test), 'pipe');
    execFileSync('mkfifo', [path]);
    const reader = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
    const writers = [0, 1].map(() => openSync(path, constants.O_WRONLY | constants.O_NONBLOCK));
    test.after(() => [reader, ...writers].forEach((fd) => closeSync(fd)));
    const logs = writers.map((fd) => new AccessLog(fd));
    for (const [who, log] of logs.entries()) {
      const prefix = log.prefix(connection);
      for (let i = 0; i < 1000; i++) log.request(prefix, request({ path: `/${who}/${i}` }));
    }
    const closed = new AbortController();
    const closing = Promise.all(logs.map((log) => log.close(10_000))).then(() => closed.abort());
    let text = '';
    const buffer = Buffer.alloc(65_536);
    const drain = (): void => {
      for (;;) {
        try {
          const length = readSync(reader, buffer);
          if (length === 0) return;
          text += buffer.toString('latin1', 0, length);
        } catch (error) {
          if ((error as NodeJS.ErrnoException).code === 'EAGAIN') return;
          throw error;
        }
      }
    };
    while (!closed.signal.aborted) {
      drain();
      await delay(2);
    }
    await closing;
    drain();
    const paths = new Set(lines(text).map((line) => line['path']));
    assert.equal(paths.size, 2000);
  });
});
