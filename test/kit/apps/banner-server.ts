/**
 * A line-oriented server that speaks first, as SMTP and MySQL do: a greeting, then `you said <line>` for each line, `bye` ends it.
 * Usage: banner-server.ts [port]
 */
import { createServer } from 'node:net';
import { createInterface } from 'node:readline';

const port = Number(process.argv[2] ?? 2525);

createServer((socket) => {
  socket.on('error', (error) => console.log(`error ${error.message}`));
  socket.write('220 welcome\r\n');
  createInterface({ input: socket }).on('line', (line) => {
    if (line === 'bye') socket.end('221 bye\r\n');
    else socket.write(`250 you said ${line}\r\n`);
  });
}).listen(port, '::', () => console.log(`listening on ${port}`));
