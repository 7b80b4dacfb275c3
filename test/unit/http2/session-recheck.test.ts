import assert from 'node:assert/strict';
import { afterEach, describe, it } from 'node:test';
import { ErrorCode } from '../../../src/transport/http2/errors.ts';
import type { GateAnswer } from '../../../src/model/request-gate.ts';
import { settle } from '../../kit/stream-recorder.ts';
import { ALLOWED, answerOf, closeSessions, DENIED, get, grpc, startSession } from './session-fixture.ts';

afterEach(closeSessions);

/** The code with which a stream ended. */
function code(error: Error | null | undefined): number | undefined {
  return (error as (Error & { http2Code: number }) | null | undefined)?.http2Code;
}

describe('a policy that changes', () => {
  it('ends what it no longer allows: with a refusal before the answer, with CANCEL after, on both sides; the rest goes on', async () => {
    const { session, request, gate, application, exchanges } = startSession();
    application.onRequest = ({ stream, fields }) => {
      if (fields.includes('/watch') || fields.includes('/kept')) {
        stream.respond([':status', '200']);
        stream.write(Buffer.from('first'));
      }
    };
    const plain = request(get('/new'));
    const call = request(grpc('/new'), 'x');
    const watch = request(grpc('/watch'), 'x');
    const kept = request(get('/kept'));
    await settle();
    gate.answer = (head) => answerOf(head.path === '/kept' ? ALLOWED : DENIED);
    session.recheck();
    await Promise.all([plain.done(), call.done(), watch.done()]);
    assert.deepEqual([plain.field(':status'), plain.field('x-weft-denied-by')], ['403', 'shop/no-admin']);
    assert.deepEqual([call.field('grpc-status'), call.field('x-weft-denied-by')], ['7', 'shop/no-admin']);
    assert.equal(watch.body.text(), 'first');
    assert.equal(watch.resetCode, ErrorCode.cancel);
    await settle();
    assert.deepEqual(
      application.arrived.map(({ body }) => code(body.error)),
      [ErrorCode.cancel, ErrorCode.cancel, ErrorCode.cancel, undefined],
    );
    assert.deepEqual(
      exchanges.map(({ path, status, grpcStatus, refusal, decision }) => [path, status, grpcStatus, refusal, decision.verdict]).toSorted(),
      [
        ['/new', 403, undefined, 'policy-denied', 'deny'],
        ['/new', 200, 7, 'policy-denied', 'deny'],
        ['/watch', 0, null, 'policy-changed', 'deny'],
      ].toSorted(),
    );
    application.arrived[3]?.stream.write(Buffer.from(' second'));
    application.arrived[3]?.stream.end();
    await kept.done();
    assert.equal(kept.body.text(), 'first second');
  });

  it('is asked with the head as it came, and its new headers are too late for a request that is on its way', async () => {
    const { session, request, gate, application } = startSession();
    application.onRequest = () => {};
    gate.answer = () => answerOf(ALLOWED, { change: { remove: ['x-user'], set: [['x-user', 'alice']] } });
    request(get('/a', 'x-user', 'root'));
    await settle();
    const seen: (readonly string[])[] = [];
    gate.answer = (head) => {
      seen.push(head.header('x-user'));
      return answerOf(ALLOWED, { change: { remove: [], set: [['x-late', '1']] } });
    };
    session.recheck();
    await settle();
    assert.deepEqual(seen, [['root']]);
    assert.equal(application.arrived.length, 1);
    assert.equal(application.arrived[0]?.body.error, null);
  });

  it('is asked again for a request whose answer is still awaited: the old answer no longer counts', async () => {
    const { session, request, gate, application } = startSession();
    const { promise, resolve } = Promise.withResolvers<GateAnswer>();
    gate.answer = () => promise;
    const response = request(get('/'));
    await settle();
    gate.answer = () => answerOf(DENIED);
    session.recheck();
    resolve(answerOf(ALLOWED));
    await response.done();
    assert.equal(response.field(':status'), '403');
    assert.deepEqual(application.arrived, []);
  });

  it('counts alone: the answer to an older question comes too late to refuse', async () => {
    const { session, request, gate } = startSession();
    const { promise, resolve } = Promise.withResolvers<GateAnswer>();
    gate.answer = () => promise;
    const response = request(get('/'));
    await settle();
    gate.answer = () => answerOf(ALLOWED);
    session.recheck();
    resolve(answerOf(DENIED));
    assert.equal((await response.done()).field(':status'), '200');
  });

  it('is asked again for a request that waits for a free stream, which then goes with its new headers or not at all', async () => {
    const { session, request, gate, application } = startSession({ application: { maxConcurrentStreams: 1 } });
    application.onRequest = () => {};
    request(get('/open'));
    const denied = request(get('/denied'));
    const changed = request(get('/changed'));
    await settle();
    gate.answer = (head) =>
      head.path === '/denied' ? answerOf(DENIED) : answerOf(ALLOWED, { change: { remove: [], set: [['x-new', '1']] } });
    session.recheck();
    await denied.done();
    assert.equal(denied.field(':status'), '403');
    application.arrived[0]?.stream.respond([':status', '200'], true);
    await settle();
    application.arrived[1]?.stream.respond([':status', '200'], true);
    await changed.done();
    assert.deepEqual(
      application.arrived.map(({ fields }) => fields),
      [get('/open'), get('/changed', 'x-new', '1')],
    );
  });

  it('may be asked by promise: the stream goes on until the answer', async () => {
    const { session, request, gate, application } = startSession();
    application.onRequest = ({ stream }) => {
      stream.respond([':status', '200']);
      stream.write(Buffer.from('a'));
    };
    const response = request(get('/'));
    await settle();
    const { promise, resolve } = Promise.withResolvers<GateAnswer>();
    gate.answer = () => promise;
    session.recheck();
    application.arrived[0]?.stream.write(Buffer.from('b'));
    await settle();
    assert.equal(response.body.text(), 'ab');
    resolve(answerOf(DENIED));
    await response.done();
    assert.equal(response.resetCode, ErrorCode.cancel);
  });
});
