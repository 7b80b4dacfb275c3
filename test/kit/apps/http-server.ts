/**
 * An HTTP server that knows nothing of a mesh. It answers every request with what it saw, as JSON. Usage: http-server.ts [port]
 * `GET /slow?ms=N` answers after N milliseconds, `GET /bytes?n=N` with N bytes.
 */
import { createServer } from 'node:http';

const port = Number(process.argv[2] ?? 8080);

const server = createServer({ keepAliveTimeout: 60_000 }, (request, response) => {
  const url = new URL(request.url ?? '/', 'http://application');
  const chunks: Buffer[] = [];
  request.on('data', (chunk: Buffer) => chunks.push(chunk));
  request.on('end', () => {
    if (url.pathname === '/bytes') {
      response.end(Buffer.alloc(Number(url.searchParams.get('n') ?? 1024), 'x'));
      return;
    }
    const { remoteAddress, remotePort, localAddress, localPort } = request.socket;
    const body = JSON.stringify({
      method: request.method,
      path: request.url,
      headers: request.headers,
      body: Buffer.concat(chunks).toString(),
      remoteAddress: canonical(remoteAddress),
      remotePort,
      localAddress: canonical(localAddress),
      localPort,
    });
    const answer = (): void => {
      response.setHeader('content-type', 'application/json');
      response.end(`${body}\n`);
    };
    if (url.pathname === '/slow') setTimeout(answer, Number(url.searchParams.get('ms') ?? 100));
    else answer();
    console.log(`${request.method} ${request.url} from ${canonical(remoteAddress)}`);
  });
});

/** The server listens for both families on one socket, which shows IPv4 as ::ffff:a.b.c.d. */
function canonical(address: string | undefined): string {
  return (address ?? '').replace(/^::ffff:/, '');
}

server.listen(port, '::', () => console.log(`listening on ${port}`));
