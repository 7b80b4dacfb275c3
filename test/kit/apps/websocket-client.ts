/**
 * A WebSocket client. It prints `open`, `message TEXT`, `error`, `close CODE`, and sends each line of its standard input.
 * Usage: websocket-client.ts URL
 */
import { createInterface } from 'node:readline';

const socket = new WebSocket(process.argv[2] ?? '');
socket.addEventListener('open', () => {
  console.log('open');
  createInterface({ input: process.stdin })
    .on('line', (line) => socket.send(line))
    .on('close', () => socket.close());
});
socket.addEventListener('message', ({ data }) => console.log(`message ${data}`));
socket.addEventListener('error', () => console.log('error'));
socket.addEventListener('close', ({ code }) => {
  console.log(`close ${code}`);
  process.exit();
});
