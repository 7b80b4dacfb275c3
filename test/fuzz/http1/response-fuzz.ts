import { settle } from '../../kit/stream-recorder.ts';
import { startSession, type SessionFixture } from '../../unit/http1/session-fixture.ts';
import type { FuzzReport } from './http1-fuzz.ts';
import { mutate, randomFrom } from './mutate.ts';
import { RESPONSE_CORPUS, RESPONSE_DICTIONARY } from './response-corpus.ts';
import { readResponseWithLlhttp } from './response-oracle.ts';

const METHODS = ['GET', 'HEAD'] as const;
/** What follows the request in question, and must never get an answer that was not made for it. */
const NEXT = 'GET /next HTTP/1.1\r\nHost: shop\r\n\r\n';

/** A request, and a server that answers with `text` and closes. */
async function run(text: string, chunkSize: number, method: string): Promise<SessionFixture> {
  const fixture = startSession({ upstream: { chunkSize } });
  fixture.client.onChange = () => {
    if (fixture.client.ended) fixture.client.stream.end();
  };
  fixture.client.send(`${method} /first HTTP/1.1\r\nHost: shop\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n`);
  await settle(2);
  fixture.server.send(text);
  fixture.server.stream.end();
  for (let turn = 0; turn < 200 && fixture.closes.length === 0; turn++) {
    // The answer must be whole before the next request is.
    if (turn === 30) fixture.client.send(NEXT);
    if (turn === 60) fixture.client.stream.end();
    await settle(1);
  }
  return fixture;
}

/** What became of the first exchange. Whether bad framing is found before the head has been passed on hangs on the splitting alone. */
function outcome({ exchanges }: SessionFixture): string {
  const [first] = exchanges;
  return first === undefined || first.refusal !== null ? 'failed' : String(first.status);
}

/**
 * Checks one response: splitting changes nothing; llhttp as the client reads the same response, whole exactly when the session says so; and
 * the session never makes one of it where it has refused it.
 * @returns what is wrong, or null
 */
export async function checkResponse(text: string, chunkSize: number, method: string): Promise<string | null> {
  const whole = await run(text, Number.POSITIVE_INFINITY, method);
  if (whole.closes.length !== 1) return 'the session did not end';
  const split = await run(text, chunkSize, method);
  if (outcome(whole) !== outcome(split)) return `split at ${chunkSize} bytes: ${outcome(split)} instead of ${outcome(whole)}`;
  for (const { client, exchanges } of [whole, split]) {
    const [first] = exchanges;
    if (first === undefined) return 'no exchange was reported';
    const bytes = client.bytes();
    const read = await readResponseWithLlhttp(bytes.subarray(0, first.responseBytes), method, client.ended);
    if (first.status !== 0 && (read.status !== first.status || !read.complete || (read.error !== null && first.status !== 101))) {
      return `${first.status} was passed on, llhttp reads ${JSON.stringify(read)}`;
    }
    if (first.status === 0 && read.complete) return `cut (${first.refusal}), but llhttp reads a whole response ${JSON.stringify(read)}`;
    // Nothing may come that the session did not report. What it cut off may be lost.
    const reported = exchanges.reduce((total, exchange) => total + exchange.responseBytes, 0);
    const isWhole = client.error === null && first.status !== 101;
    if (isWhole && bytes.length !== reported) return `${bytes.length} bytes sent, ${reported} reported`;
    if (exchanges[1] !== undefined && exchanges[1].refusal === null)
      return `an answer to the next request out of nothing: ${exchanges[1].status}`;
  }
  return null;
}

/** Checks mutated responses for some seconds, or until one fails. */
export async function fuzzResponses(seconds: number, seed: number): Promise<FuzzReport> {
  const random = randomFrom(seed);
  const until = performance.now() + seconds * 1000;
  let inputs = 0;
  while (performance.now() < until) {
    const input = mutate(RESPONSE_CORPUS[random(RESPONSE_CORPUS.length)] as string, random, RESPONSE_CORPUS, RESPONSE_DICTIONARY);
    const method = METHODS[random(METHODS.length)] as string;
    inputs++;
    const what = await checkResponse(input, 1 + random(20), method).catch((error: unknown) => `threw ${(error as Error).stack}`);
    if (what !== null) return { inputs, seed, failure: { input, what: `${method}: ${what}` } };
  }
  return { inputs, seed, failure: null };
}
