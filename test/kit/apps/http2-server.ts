/**
 * An HTTP/2 server (cleartext, prior knowledge) that knows nothing of a mesh. Usage: http2-server.ts [port]
 * Requests whose content-type is gRPC get a message and trailers, `/watch` one message a tenth of a second, and others what it saw, as JSON.
 */
import { createServer, type ServerHttp2Stream } from 'node:http2';

const port = Number(process.argv[2] ?? 9090);
const server = createServer();

server.on('stream', (stream: ServerHttp2Stream, headers) => {
  stream.on('error', () => {});
  if (headers[':path']?.endsWith('/watch')) {
    stream.respond({ ':status': 200 });
    const timer = setInterval(() => stream.write('tick\n'), 100);
    stream.on('close', () => {
      clearInterval(timer);
      console.log('watch ended');
    });
    stream.resume();
    return;
  }
  const isGrpc = headers['content-type']?.startsWith('application/grpc') === true;
  if (isGrpc) {
    stream.respond({ ':status': 200, 'content-type': 'application/grpc' }, { waitForTrailers: true });
    stream.on('wantTrailers', () => stream.sendTrailers({ 'grpc-status': '0' }));
  } else stream.respond({ ':status': 200, 'content-type': 'application/json' });
  const { remoteAddress } = stream.session?.socket ?? {};
  stream.resume();
  stream.on('end', () => {
    stream.end(`${JSON.stringify({ path: headers[':path'], headers, remoteAddress: remoteAddress?.replace(/^::ffff:/, '') })}\n`);
  });
});

server.listen(port, '::', () => console.log(`listening on ${port}`));
