/**
 * A TCP server that sends back what it gets, and half-closes when its client does. Usage: tcp-echo.ts [port]
 */
import { createServer } from 'node:net';

const port = Number(process.argv[2] ?? 7000);

createServer({ allowHalfOpen: true }, (socket) => {
  console.log(`connection from ${(socket.remoteAddress ?? '').replace(/^::ffff:/, '')} ${socket.remotePort}`);
  socket.on('error', (error) => console.log(`error ${error.message}`));
  socket.pipe(socket);
}).listen(port, '::', () => console.log(`listening on ${port}`));
