/**
 * An HTTP/2 client without TLS that does as it is told, one JSON object a line, and tells what happens in the same form. All requests to one
 * origin share a connection. Bytes are base64.
 * In:  {"open": id, "to": origin, "headers": {…}}  {"write": id, "bytes": …}  {"end": id}
 * Out: {"id": id, "event": "head" | "trailers", "headers": {…}}  {"id": id, "event": "data", "bytes": …}  {"id": id, "event": "close", "code": n}
 */
import { type ClientHttp2Session, type ClientHttp2Stream, connect, type OutgoingHttpHeaders } from 'node:http2';
import { createInterface } from 'node:readline';

interface Command {
  readonly open?: number;
  readonly write?: number;
  readonly end?: number;
  readonly to?: string;
  readonly headers?: OutgoingHttpHeaders;
  readonly bytes?: string;
}

const sessions = new Map<string, ClientHttp2Session>();
const streams = new Map<number, ClientHttp2Stream>();

function tell(event: object): void {
  process.stdout.write(`${JSON.stringify(event)}\n`);
}

function sessionTo(origin: string): ClientHttp2Session {
  let session = sessions.get(origin);
  if (session === undefined || session.closed || session.destroyed) {
    session = connect(origin);
    session.on('error', () => {});
    sessions.set(origin, session);
  }
  return session;
}

function open(id: number, origin: string, headers: OutgoingHttpHeaders): void {
  const stream = sessionTo(origin).request(headers, { endStream: false });
  streams.set(id, stream);
  stream.on('error', () => {});
  stream.on('response', (head) => tell({ id, event: 'head', headers: head }));
  stream.on('data', (chunk: Buffer) => tell({ id, event: 'data', bytes: chunk.toString('base64') }));
  stream.on('trailers', (trailers) => tell({ id, event: 'trailers', headers: trailers }));
  stream.on('close', () => {
    streams.delete(id);
    tell({ id, event: 'close', code: stream.rstCode });
  });
}

createInterface({ input: process.stdin })
  .on('line', (line) => {
    const command = JSON.parse(line) as Command;
    if (command.open !== undefined) open(command.open, command.to ?? '', command.headers ?? {});
    else if (command.write !== undefined) streams.get(command.write)?.write(Buffer.from(command.bytes ?? '', 'base64'));
    else if (command.end !== undefined) streams.get(command.end)?.end();
  })
  .on('close', () => process.exit());
console.log('ready');
