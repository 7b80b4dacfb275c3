/**
 * An HTTPS server with a certificate of its own, which answers `secret <path>`. Usage: https-server.ts PORT CERTIFICATE-FILE KEY-FILE
 */
import { readFileSync } from 'node:fs';
import { createServer } from 'node:https';

const [port = '8443', cert = '', key = ''] = process.argv.slice(2);

createServer({ cert: readFileSync(cert), key: readFileSync(key) }, (request, response) => response.end(`secret ${request.url}\n`)).listen(
  Number(port),
  '::',
  () => console.log(`listening on ${port}`),
);
