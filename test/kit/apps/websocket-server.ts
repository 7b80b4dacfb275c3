/**
 * A WebSocket server (RFC 6455) that sends every short text back. What is not an upgrade is answered `plain`. Usage: websocket-server.ts [port]
 */
import { createHash } from 'node:crypto';
import { createServer } from 'node:http';
import type { Duplex } from 'node:stream';

const port = Number(process.argv[2] ?? 8082);
const GUID = '258EAFA5-E914-47DA-95CA-C5AB0DC85B11';
const TEXT = 1;
const CLOSE = 8;

const server = createServer((_request, response) => response.end('plain\n'));
server.on('upgrade', (request, socket, head) => {
  const accept = createHash('sha1').update(`${request.headers['sec-websocket-key']}${GUID}`).digest('base64');
  socket.write(`HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ${accept}\r\n\r\n`);
  socket.on('error', () => {});
  socket.on('close', () => console.log('closed'));
  serve(socket, head);
});

function serve(socket: Duplex, head: Buffer): void {
  let rest: Buffer = head;
  const read = (): void => {
    for (;;) {
      const length = (rest[1] ?? 0) & 0x7f;
      if (rest.length < 6 + length) return;
      if (length > 125) return void socket.destroy();
      const opcode = (rest[0] as number) & 0xf;
      const mask = rest.subarray(2, 6);
      const payload = Buffer.from(rest.subarray(6, 6 + length));
      for (let i = 0; i < length; i++) payload[i] = (payload[i] as number) ^ (mask[i % 4] as number);
      rest = rest.subarray(6 + length);
      if (opcode === TEXT || opcode === CLOSE) socket.write(Buffer.concat([Buffer.from([0x80 | opcode, length]), payload]));
      if (opcode === CLOSE) return void socket.end();
    }
  };
  socket.on('data', (chunk: Buffer) => {
    rest = Buffer.concat([rest, chunk]);
    read();
  });
  read();
}

server.listen(port, '::', () => console.log(`listening on ${port}`));
