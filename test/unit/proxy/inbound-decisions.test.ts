import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { NO_CHECKS } from '../../../proxy/inbound/inbound.ts';
import { InboundConnection, type Security } from '../../../proxy/inbound/inbound-connection.ts';
import { parseSpiffeId } from '../../../src/model/identity.ts';
import type { PolicyEntry, WorkloadEntry } from '../../../src/model/snapshot.ts';
import type { DeclaredProtocol } from '../../../src/model/resources.ts';
import { memoryStreamPair } from '../../kit/memory-stream.ts';
import { settle, StreamRecorder } from '../../kit/stream-recorder.ts';
import { allow, CountedTelemetry, serviceEntry, viewOf, workloadEntry } from './mesh-fixture.ts';

const GET = 'GET / HTTP/1.1\r\nHost: web\r\n\r\n';
const DELETE = 'DELETE / HTTP/1.1\r\nHost: web\r\n\r\n';
const OK = 'HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok';
const NOT_HTTP = '\x00\x01\x02';
const ONLY_GET = allow('shop/only-get', { to: [{ methods: ['GET'] }] });
const NOBODY = allow('shop/nobody', { from: [{ namespaces: ['elsewhere'] }] });

interface Wish {
  readonly policies?: readonly PolicyEntry[];
  readonly security?: Security;
  readonly mode?: WorkloadEntry['mode'];
  readonly declared?: DeclaredProtocol;
  /** False where the policy lets nothing through, so that nobody dialled. */
  readonly dialled?: boolean;
}

interface Fixture {
  readonly client: StreamRecorder;
  readonly server: StreamRecorder;
  readonly connection: InboundConnection;
  readonly counted: CountedTelemetry;
  /** How often the connection said that it is over. */
  readonly done: () => number;
  /** Puts other policies in force. */
  readonly change: (policies: readonly PolicyEntry[], mode?: WorkloadEntry['mode']) => void;
}

function arrive({ policies = [], security = 'mtls', mode = 'permissive', declared = 'auto', dialled = true }: Wish = {}): Fixture {
  const web = (now: readonly PolicyEntry[], mode_ = mode): WorkloadEntry =>
    workloadEntry(2, 'web', { mode: mode_, policies: now.map((_, index) => index) });
  const services = [serviceEntry('web', { ports: [{ port: 80, targetPort: 80, protocol: declared }], endpoints: [2] })];
  const workload = web(policies);
  const counted = new CountedTelemetry();
  const [clientEnd, downstream] = memoryStreamPair();
  const [upstream, serverEnd] = memoryStreamPair();
  const peer = security === 'plaintext' ? null : parseSpiffeId('spiffe://cluster.local/ns/shop/sa/client');
  const source = { address: '10.0.0.1', port: 1234 };
  const destination = { address: '10.0.0.2', port: 80 };
  const record = counted.telemetry.open({
    direction: 'inbound',
    security,
    path: 'tunnel',
    source: { ...source, workload: null, identity: peer?.text ?? null },
    destination: { ...destination, workload, identity: workload.identity, service: null },
    stream: downstream,
  });
  const client = new StreamRecorder(clientEnd);
  const server = new StreamRecorder(serverEnd);
  let done = 0;
  const arrival = { workload, stream: downstream, security, peer, source, destination };
  const view = viewOf([workload], services, policies);
  const connection = new InboundConnection(arrival, view, dialled ? upstream : null, record, true, NO_CHECKS, () => done++);
  const change = (now: readonly PolicyEntry[], newMode = mode): void => {
    const changed = web(now, newMode);
    connection.reconsider(viewOf([changed], services, now), changed);
  };
  return { client, server, connection, counted, done: () => done, change };
}

describe('bytes of no protocol that is known', () => {
  it('go through both ways where policy allows the connection', async () => {
    const { client, server, connection } = arrive();
    client.send(NOT_HTTP);
    server.send('banner');
    await settle();
    assert.equal(server.text(), NOT_HTTP);
    assert.equal(client.text(), 'banner');
    assert.equal(connection.state, 'opaque');
  });

  it('are reset where only requests are allowed: not a byte reaches the application', async () => {
    const { client, server, counted, done } = arrive({ policies: [ONLY_GET] });
    client.send(NOT_HTTP);
    await settle();
    assert.equal(server.text(), '');
    assert.equal(client.closed && server.closed, true);
    assert.notEqual(client.error, null);
    assert.equal(counted.refused('inbound', 'tunnel', 'policy'), 1);
    assert.equal(done(), 1);
    assert.equal(counted.active('inbound', 'tunnel'), 0);
  });

  it('cannot be smuggled in after the beginning of a request', async () => {
    const { client, server } = arrive({ policies: [ONLY_GET] });
    client.send('GE');
    await settle();
    client.send(NOT_HTTP);
    await settle();
    assert.equal(server.text(), '');
    assert.equal(client.closed, true);
  });

  it('go to a server that speaks first, whose words are not lost', async () => {
    const { client, server, connection } = arrive();
    server.send('220 ready');
    await settle();
    assert.equal(client.text(), '220 ready');
    client.send('EHLO');
    await settle();
    assert.equal(server.text(), 'EHLO');
    assert.equal(connection.state, 'opaque');
  });

  it('arrive whole when they come one by one', async () => {
    const { client, server } = arrive();
    const text = 'SSH-2.0-x\r\n';
    for (const byte of text) {
      client.send(byte);
      await settle(2);
    }
    assert.equal(server.text(), text);
  });

  it('are not looked at where the service declares TCP', async () => {
    const { client, server } = arrive({ declared: 'tcp' });
    client.send(DELETE);
    await settle();
    assert.equal(server.text(), DELETE);
  });

  it('declared as TCP do not get requests past the policy of requests', async () => {
    const { client, server } = arrive({ declared: 'tcp', policies: [ONLY_GET] });
    client.send(GET);
    await settle();
    assert.equal(server.text(), '');
    assert.equal(client.closed, true);
  });
});

describe('requests', () => {
  it('are decided one by one', async () => {
    const { client, server } = arrive({ policies: [ONLY_GET] });
    client.send(GET);
    await settle();
    assert.equal(server.text(), GET);
    server.send(OK);
    await settle();
    assert.equal(client.text(), OK);
    client.send(DELETE);
    await settle();
    assert.match(client.text().slice(OK.length), /^HTTP\/1\.1 403 .*x-weft-denied-by: shop\/only-get/is);
    assert.equal(server.text(), GET);
  });

  it('follow a policy that changes under an open connection', async () => {
    const { client, server, change } = arrive();
    client.send(GET);
    await settle();
    server.send(OK);
    await settle();
    change([NOBODY]);
    client.send(GET);
    await settle();
    assert.match(client.text().slice(OK.length), /^HTTP\/1\.1 403 /);
    assert.equal(server.text(), GET);
  });

  it('in flight get a 403 when the policy changes before they are answered', async () => {
    const { client, server, change } = arrive();
    client.send(GET);
    await settle();
    assert.equal(server.text(), GET);
    change([NOBODY]);
    await settle();
    assert.match(client.text(), /^HTTP\/1\.1 403 /);
    assert.equal(server.closed, true, 'the application is told that nobody waits');
  });

  it('get a 403 that names the mode where plaintext is refused, from a client that nobody dialled for', async () => {
    const { client } = arrive({ security: 'plaintext', mode: 'strict', dialled: false });
    client.send(GET);
    await settle();
    assert.match(client.text(), /^HTTP\/1\.1 403 [\s\S]*strict mode requires mTLS/);
  });
});

describe('plaintext under strict', () => {
  it('that is no HTTP is reset, named by the mode', async () => {
    const { client, counted } = arrive({ security: 'plaintext', mode: 'strict', dialled: false });
    client.send(NOT_HTTP);
    await settle();
    assert.equal(client.closed, true);
    assert.equal(counted.refused('inbound', 'tunnel', 'strict-mode'), 1);
  });

  it('ends when the mode becomes strict under it, and not for who is proven', async () => {
    for (const [security, ends] of [
      ['plaintext', true],
      ['mtls', false],
      ['kernel', false],
    ] as const) {
      const { client, change } = arrive({ security });
      client.send(NOT_HTTP);
      await settle();
      change([], 'strict');
      await settle();
      assert.equal(client.closed, ends, security);
    }
  });

  it('stays refused when the mode loosens: nobody was dialled for it', async () => {
    const { client, change } = arrive({ security: 'plaintext', mode: 'strict', dialled: false });
    change([], 'permissive');
    client.send(NOT_HTTP);
    await settle();
    assert.equal(client.closed, true);
  });
});

describe('an open connection of bytes', () => {
  it('ends when policy no longer allows it', async () => {
    const { client, server, connection, change, counted, done } = arrive();
    client.send(NOT_HTTP);
    await settle();
    change([NOBODY]);
    await settle();
    assert.equal(client.closed && server.closed, true);
    assert.equal(connection.state, 'closed');
    assert.equal(done(), 1);
    assert.equal(counted.refused('inbound', 'tunnel', 'policy'), 1);
  });

  it('goes on when policy still allows it', async () => {
    const { client, server, change } = arrive();
    client.send('\x01');
    await settle();
    change([allow('shop/all')]);
    client.send('\x02');
    await settle();
    assert.equal(server.text(), '\x01\x02');
    assert.equal(client.closed, false);
  });
});

describe('the end', () => {
  it('of a client that leaves before it spoke is nobody’s failure', async () => {
    const { client, server, counted, done } = arrive();
    client.stream.destroy();
    await settle();
    assert.equal(server.closed, true);
    assert.equal(done(), 1);
    assert.equal(counted.refused('inbound', 'tunnel', 'dial-failed'), 0);
    assert.equal(counted.active('inbound', 'tunnel'), 0);
  });

  it('of an application that does not answer resets the client, and is counted', async () => {
    const { client, server, counted, done } = arrive();
    server.stream.destroy();
    await settle();
    assert.equal(client.closed, true);
    assert.notEqual(client.error, null);
    assert.equal(done(), 1);
    assert.equal(counted.refused('inbound', 'tunnel', 'dial-failed'), 1);
  });

  it('in order on both sides is reported once', async () => {
    const { client, server, done, counted } = arrive();
    client.send(NOT_HTTP);
    client.stream.end();
    await settle();
    assert.equal(server.ended, true);
    server.send('late');
    server.stream.end();
    await settle();
    assert.equal(client.text(), 'late');
    assert.equal(client.error, null);
    assert.equal(done(), 1);
    assert.equal(counted.active('inbound', 'tunnel'), 0);
  });

  it('of a client that only half-closes lets a server answer that speaks to an empty request', async () => {
    const { client, server } = arrive();
    client.stream.end();
    await settle();
    assert.equal(server.ended, true);
    server.send('the time is now');
    server.stream.end();
    await settle();
    assert.equal(client.text(), 'the time is now');
  });
});
