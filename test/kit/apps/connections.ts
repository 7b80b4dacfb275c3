/**
 * A client of many connections to an HTTP server. Usage: connections.ts hold|churn <address> <port> <count> [concurrency]
 * hold: opens `count` connections, makes one request on each, prints `holding <open> <failed>`, keeps them until standard input ends.
 * churn: opens and closes `count` connections with one request each, at most `concurrency` at a time, prints `done <ok> <failed>`.
 */
import { type Socket, connect } from 'node:net';

const [mode = '', address = '', port = '', count = '', concurrency = '64'] = process.argv.slice(2);
const host = address.includes(':') ? `[${address}]:${port}` : `${address}:${port}`;
const head = `GET / HTTP/1.1\r\nHost: ${host}\r\n`;

/** One request on a new connection; resolves with the socket once some of the answer is there, null on failure. */
function request(headers: string): Promise<Socket | null> {
  return new Promise((resolve) => {
    const socket = connect({ host: address, port: Number(port) });
    const timer = setTimeout(() => socket.destroy(), 20_000);
    socket.once('connect', () => socket.write(`${head}${headers}\r\n`));
    socket.once('data', (chunk: Buffer) => {
      clearTimeout(timer);
      const ok = chunk.toString('latin1', 0, 12) === 'HTTP/1.1 200';
      if (!ok) socket.destroy();
      resolve(ok ? socket : null);
    });
    socket.on('error', () => socket.destroy());
    socket.once('close', () => {
      clearTimeout(timer);
      resolve(null);
    });
  });
}

/** Runs `task` count times, at most `limit` at once. */
async function repeat(limit: number, task: () => Promise<void>): Promise<void> {
  let started = 0;
  const worker = async (): Promise<void> => {
    while (started < Number(count)) {
      started++;
      await task();
    }
  };
  await Promise.all(Array.from({ length: limit }, worker));
}

let good = 0;
let bad = 0;
if (mode === 'hold') {
  const held: Socket[] = [];
  let lost = 0;
  await repeat(Number(concurrency), async () => {
    const socket = await request('');
    if (socket === null) {
      bad++;
      return;
    }
    socket.once('close', () => lost++);
    socket.resume();
    held.push(socket);
  });
  console.log(`holding ${held.length} ${bad}`);
  process.stdin.resume().once('end', () => {
    console.log(`lost ${lost}`);
    for (const socket of held) socket.destroy();
  });
} else if (mode === 'churn') {
  await repeat(Number(concurrency), async () => {
    const socket = await request('Connection: close\r\n');
    if (socket === null) bad++;
    else {
      good++;
      await new Promise((resolve) => socket.resume().once('close', resolve));
    }
  });
  console.log(`done ${good} ${bad}`);
} else {
  console.error('usage: connections.ts hold|churn <address> <port> <count> [concurrency]');
  process.exit(2);
}
