/**
 * An HTTP/2 server without TLS that knows nothing of a mesh. It answers every request with what it saw, as JSON, and gRPC requests as the
 * service `echo.Echo` of texts: Unary; Count (as many messages as the number it got); Collect (one answer, all it got); Talk (each message
 * comes back when it came); Fail (NOT_FOUND). Usage: http2-server.ts [port]
 */
import { createServer, type IncomingHttpHeaders, type ServerHttp2Stream } from 'node:http2';
import { GrpcMessages, grpcMessage } from '../grpc-messages.ts';

const port = Number(process.argv[2] ?? 8081);

const server = createServer();
server.on('stream', (stream: ServerHttp2Stream, headers: IncomingHttpHeaders) => {
  stream.on('error', () => {});
  if (headers['content-type']?.startsWith('application/grpc') === true) {
    const timeout = String(headers['grpc-timeout'] ?? '');
    serveGrpc(stream, headers[':path'] ?? '', timeout === '' ? {} : { 'x-seen-timeout': timeout });
    return;
  }
  const chunks: Buffer[] = [];
  stream.on('data', (chunk: Buffer) => chunks.push(chunk));
  stream.on('end', () => {
    const { remoteAddress, localAddress } = stream.session?.socket ?? {};
    stream.respond({ ':status': 200, 'content-type': 'application/json' });
    stream.end(
      JSON.stringify({
        method: headers[':method'],
        path: headers[':path'],
        headers,
        body: Buffer.concat(chunks).toString(),
        remoteAddress: canonical(remoteAddress),
        localAddress: canonical(localAddress),
      }),
    );
  });
});
server.on('sessionError', () => {});

function serveGrpc(stream: ServerHttp2Stream, path: string, headers: Readonly<Record<string, string>>): void {
  const incoming = new GrpcMessages();
  const got: string[] = [];
  let status: Record<string, string> = { 'grpc-status': '0' };
  stream.on('wantTrailers', () => stream.sendTrailers(status));
  stream.respond({ ':status': 200, 'content-type': 'application/grpc', ...headers }, { waitForTrailers: true });
  stream.on('data', (chunk: Buffer) => {
    for (const message of incoming.push(chunk)) {
      got.push(message);
      if (path === '/echo.Echo/Talk') stream.write(grpcMessage(message));
    }
  });
  stream.on('end', () => {
    const [first = ''] = got;
    if (path === '/echo.Echo/Unary') stream.write(grpcMessage(first));
    else if (path === '/echo.Echo/Collect') stream.write(grpcMessage(got.join(' ')));
    else if (path === '/echo.Echo/Count') for (let i = 1; i <= Number(first); i++) stream.write(grpcMessage(String(i)));
    else if (path === '/echo.Echo/Fail') status = { 'grpc-status': '5', 'grpc-message': 'no such thing' };
    else if (path !== '/echo.Echo/Talk') status = { 'grpc-status': '12' };
    stream.end();
  });
}

/** The server listens for both families on one socket, which shows IPv4 as ::ffff:a.b.c.d. */
function canonical(address: string | undefined): string {
  return (address ?? '').replace(/^::ffff:/, '');
}

server.listen(port, '::', () => console.log(`listening on ${port}`));
