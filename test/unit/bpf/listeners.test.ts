import assert from 'node:assert/strict';
import { it } from 'node:test';
import { AF_INET, bind, getsockname, getsockopt, SOCK_STREAM, SocketOption, socket } from 'libbpf-ts/sys';
import { openWorkerListeners } from '../../../bpf/listeners.ts';
import type { OwnSockets } from '../../../bpf/own-sockets.ts';

const IPPROTO_TCP = 6;
const TCP_KEEPIDLE = 4;
const UNMARKED = { mark: () => {} } as unknown as OwnSockets;

function freePort(): number {
  using probe = socket(AF_INET, SOCK_STREAM);
  bind(probe.fd, { address: '127.0.0.1', port: 0 });
  return getsockname(probe.fd).port;
}

it('listeners that other hosts reach notice a peer that vanished; legs within the host need not', () => {
  const opened = openWorkerListeners(null, { outbound: freePort(), inbound: freePort(), tunnel: freePort() }, UNMARKED);
  for (const [way, expected] of [
    ['inbound', 1],
    ['tunnel', 1],
    ['outbound', 0],
  ] as const) {
    for (using fd of opened[way]) {
      assert.equal(getsockopt(fd.fd, SocketOption.SOL_SOCKET, SocketOption.SO_KEEPALIVE), expected, way);
      if (expected === 1) assert.equal(getsockopt(fd.fd, IPPROTO_TCP, TCP_KEEPIDLE), 180);
    }
  }
});
