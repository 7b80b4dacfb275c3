import assert from 'node:assert/strict';
import { afterEach, describe, it } from 'node:test';
import { settle } from '../../kit/stream-recorder.ts';
import { closeSessions, startSession, get, post, grpc } from './session-fixture.ts';

afterEach(closeSessions);

describe('an HTTP/2 session', () => {
  it('forwards a request and its answer, and reports the exchange', async () => {
    const { request, application, gate, exchanges } = startSession();
    const response = await request(post('/items?x=1', 'x-a', '1', 'cookie', 'a=b', 'cookie', 'c=d'), 'hello').done();
    assert.deepEqual(response.head, [':status', '200', 'content-type', 'text/plain']);
    assert.equal(response.body.text(), 'hello');
    assert.deepEqual(application.arrived[0]?.fields, post('/items?x=1', 'x-a', '1', 'cookie', 'a=b', 'cookie', 'c=d'));
    assert.deepEqual(gate.asked, ['POST shop /items ?x=1']);
    await settle();
    assert.equal(exchanges.length, 1);
    const { method, path, host, status, refusal, decision } = exchanges[0] as (typeof exchanges)[number];
    assert.deepEqual([method, path, host, status, refusal, decision.verdict], ['POST', '/items', 'shop', 200, null, 'allow']);
  });

  it('get and grpc denied', async () => {
    const { request, application, exchanges } = startSession();
    const denied = await request(get('/admin')).done();
    assert.equal(denied.field(':status'), '403');
    const g = await request(grpc('/admin'), 'x').done();
    assert.equal(g.field('grpc-status'), '7');
    await settle();
    assert.equal(application.arrived.length, 0);
    console.log(denied.head, denied.body.text(), g.head, exchanges);
  });
});
