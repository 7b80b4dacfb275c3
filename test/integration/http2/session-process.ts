/**
 * A process with one Http2Session for each connection, for tests that measure it: `session-process.ts APPLICATION_PORT STREAMS`. Tells its port
 * over IPC, and its memory when asked for it.
 */
import net, { type AddressInfo } from 'node:net';
import type { GateAnswer } from '../../../src/model/request-gate.ts';
import { Http2Session } from '../../../proxy/http2/session.ts';
import { DEFAULT_HTTP2_SESSION_LIMITS } from '../../../proxy/http2/session-limits.ts';
import { SocketByteStream } from '../../../src/transport/socket-stream.ts';

const [applicationPort, streams] = process.argv.slice(2).map(Number) as [number, number];
const answer: GateAnswer = {
  decision: { verdict: 'allow', policy: null, rule: null, reason: 'no policy applies' },
  refusal: null,
  change: null,
  shadow: [],
};
const gate = { ask: (): GateAnswer => answer };
const sessions = new Set<Http2Session>();
const server = net.createServer({ allowHalfOpen: true, pauseOnConnect: true }, (socket) => {
  const session = new Http2Session({
    downstream: new SocketByteStream(socket),
    upstream: new SocketByteStream(net.connect({ port: applicationPort, host: '127.0.0.1', allowHalfOpen: true })),
    gate: () => gate,
    normalisation: () => 'base',
    onExchange() {},
    onClose: () => sessions.delete(session),
    limits: { ...DEFAULT_HTTP2_SESSION_LIMITS, concurrentStreams: streams },
    deniedByHeader: true,
    clock: () => performance.now() * 1000,
  });
  sessions.add(session);
  session.start(null);
});
server.listen(0, '127.0.0.1', () => process.send?.((server.address() as AddressInfo).port));
process.on('message', () => {
  let active = 0;
  for (const session of sessions) active += session.activeStreams;
  globalThis.gc?.();
  process.send?.({ rss: process.memoryUsage.rss(), active });
});
process.on('disconnect', () => process.exit());
