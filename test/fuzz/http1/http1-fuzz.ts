/**
 * Mutates HTTP/1.1 requests (or responses) and checks what must hold for any bytes:
 * `node test/fuzz/http1/http1-fuzz.ts --seconds 60 [--seed N] [--responses]`.
 */
import { parseArgs } from 'node:util';
import { parseRequestHead, RequestHead } from '../../../proxy/http1/request-head.ts';
import { BodyFraming } from '../../../proxy/http1/body-framing.ts';
import { DEFAULT_HTTP1_LIMITS } from '../../../proxy/http1/limits.ts';
import type { RequestGate } from '../../../src/model/request-gate.ts';
import { settle, type StreamRecorder } from '../../kit/stream-recorder.ts';
import { startSession, type SessionFixture, TEST_GATE } from '../../unit/http1/session-fixture.ts';
import { CORPUS, DICTIONARY } from './corpus.ts';
import { mutate, randomFrom } from './mutate.ts';
import { fuzzResponses } from './response-fuzz.ts';
import { difference, readWithLlhttp } from './request-oracle.ts';

/** Answers each complete request as a server would, framing them with our codec. */
function serveAll(server: StreamRecorder): void {
  const head = new RequestHead();
  const body = new BodyFraming(DEFAULT_HTTP1_LIMITS);
  let at = 0;
  server.onChange = () => {
    if (server.ended) server.stream.end();
    const bytes = server.bytes();
    while (at < bytes.length) {
      const headEnd = parseRequestHead(bytes, at, bytes.length, head, DEFAULT_HTTP1_LIMITS);
      if (headEnd === 0) return;
      if (headEnd < 0) throw new Error(`the server got what the codec refuses: ${head.refusal}`);
      body.start(head.bodyLength);
      const end = body.advance(bytes, headEnd, bytes.length);
      if (!body.done) return;
      at = end;
      server.send('HTTP/1.1 204 No Content\r\n\r\n');
    }
  };
}

function outcome(fixture: SessionFixture): string {
  return JSON.stringify(fixture.exchanges.map((exchange) => [exchange.method, exchange.path, exchange.status, exchange.refusal]));
}

/** The same answers, later. */
const LATE_GATE: RequestGate = {
  ask: (head) => {
    const given = TEST_GATE.ask(head);
    return new Promise((resolve) => {
      setImmediate(() => resolve(given));
    });
  },
};

/** One session fed with `text`, and closed. */
async function run(text: string, chunkSize: number, gate: RequestGate): Promise<SessionFixture> {
  const fixture = startSession({ downstream: { chunkSize }, gate });
  serveAll(fixture.server);
  fixture.client.send(text);
  fixture.client.stream.end();
  for (let turn = 0; turn < 200 && fixture.closes.length === 0; turn++) await settle(1);
  return fixture;
}

/**
 * Checks one input.
 * @returns what is wrong, or null
 */
export async function check(text: string, chunkSize: number): Promise<string | null> {
  const bytes = Buffer.from(text, 'latin1');
  const differs = await difference(bytes);
  if (differs !== null) return differs;

  const whole = await run(text, Number.POSITIVE_INFINITY, TEST_GATE);
  if (whole.closes.length !== 1) return 'the session did not end';
  if (text.length / chunkSize < 4000) {
    const split = await run(text, chunkSize, chunkSize % 2 === 0 ? LATE_GATE : TEST_GATE);
    if (outcome(whole) !== outcome(split)) return `split at ${chunkSize} bytes: ${outcome(split)} instead of ${outcome(whole)}`;
  }

  // Another parser, on what the server received: it must see the allowed requests and no other.
  const forwarded = whole.server.bytes();
  if (forwarded.length === 0) return null;
  const read = await readWithLlhttp(forwarded);
  for (const head of read.heads) {
    if (/^DELETE |^[A-Z-]+ \/forbidden/.test(head)) return `the server was sent what policy forbids: ${head}`;
  }
  const allowed = whole.exchanges.filter((exchange) => exchange.decision.verdict === 'allow').map((exchange) => exchange.method);
  for (const [index, head] of read.heads.entries()) {
    if (!head.startsWith(`${allowed[index]} `)) return `the server reads ${head} as request ${index}, which was ${allowed[index]}`;
  }
  return null;
}

/** What a run found. */
export interface FuzzReport {
  readonly inputs: number;
  readonly seed: number;
  /** The first input that broke a promise, and how. */
  readonly failure: { readonly input: string; readonly what: string } | null;
}

/** Checks mutated inputs for some seconds, or until one fails. */
export async function fuzz(seconds: number, seed: number): Promise<FuzzReport> {
  const random = randomFrom(seed);
  const until = performance.now() + seconds * 1000;
  let inputs = 0;
  while (performance.now() < until) {
    const input = mutate(CORPUS[random(CORPUS.length)] as string, random, CORPUS, DICTIONARY);
    inputs++;
    const what = await check(input, 1 + random(20)).catch((error: unknown) => `threw ${(error as Error).stack}`);
    if (what !== null) return { inputs, seed, failure: { input, what } };
  }
  return { inputs, seed, failure: null };
}

if (import.meta.main) {
  const { values } = parseArgs({
    options: { seconds: { type: 'string', default: '60' }, seed: { type: 'string' }, responses: { type: 'boolean', default: false } },
  });
  const seed = values.seed === undefined ? Date.now() % 2 ** 31 : Number(values.seed);
  const report = await (values.responses ? fuzzResponses : fuzz)(Number(values.seconds), seed);
  console.log(`${report.inputs} inputs, seed ${report.seed}`);
  if (report.failure !== null) {
    console.log(`${report.failure.what}\n${JSON.stringify(report.failure.input)}`);
    process.exitCode = 1;
  }
}
