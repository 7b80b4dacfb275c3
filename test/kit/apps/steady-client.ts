/**
 * A client that calls an HTTP server without pause, on so many connections at once. Usage: steady-client.ts <address> <port> <connections>
 * Every tenth request of a connection is its last, so that new connections are made all the time. When standard input ends it finishes the
 * requests under way and prints one line of JSON: `{"succeeded": n, "failed": n, "failures": ["the first few reasons"]}`.
 */
import { Agent, request } from 'node:http';

const [address = '', port = '', connections = ''] = process.argv.slice(2);
const REQUESTS_PER_CONNECTION = 10;
const KEPT_FAILURES = 10;

const stopped = new AbortController();
let succeeded = 0;
let failed = 0;
const failures: string[] = [];

function fail(reason: string): void {
  failed++;
  if (failures.length < KEPT_FAILURES) failures.push(`${new Date().toISOString()} ${reason}`);
}

function call(agent: Agent): Promise<void> {
  return new Promise((resolve) => {
    const sent = request({ host: address, port, path: '/', agent, timeout: 20_000 }, (response) => {
      response.resume();
      response.once('close', () => {
        if (response.statusCode === 200 && response.complete) succeeded++;
        else fail(`status ${response.statusCode}${response.complete ? '' : ', cut'}`);
        resolve();
      });
    });
    sent.once('timeout', () => sent.destroy(new Error('no answer within 20 s')));
    sent.once('error', (error) => {
      fail(error.message);
      resolve();
    });
    sent.end();
  });
}

async function connection(): Promise<void> {
  while (!stopped.signal.aborted) {
    const agent = new Agent({ keepAlive: true, maxSockets: 1 });
    for (let i = 0; i < REQUESTS_PER_CONNECTION && !stopped.signal.aborted; i++) await call(agent);
    agent.destroy();
  }
}

process.stdin.resume().once('end', () => {
  stopped.abort();
});
console.log('calling');
await Promise.all(Array.from({ length: Number(connections) }, connection));
console.log(JSON.stringify({ succeeded, failed, failures }));
