import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Subscription } from '../../../../certs/spire/subscription.ts';
import { GRPC_STATUS, GrpcStatusError } from '../../../../src/grpc/grpc-error.ts';

/** Time that stands still until the test moves it. */
class TestClock {
  time = 0;
  timers: { at: number; callback: () => void }[] = [];
  now = (): number => this.time;
  after = (ms: number, callback: () => void): (() => void) => {
    const timer = { at: this.time + ms, callback };
    this.timers.push(timer);
    return () => void (this.timers = this.timers.filter((each) => each !== timer));
  };
  /** When the next timer is due, in ms from now; null without one. */
  get next(): number | null {
    return this.timers.length === 0 ? null : Math.min(...this.timers.map(({ at }) => at)) - this.time;
  }
  async pass(ms: number): Promise<void> {
    this.time += ms;
    for (const timer of this.timers.filter(({ at }) => at <= this.time)) {
      this.timers = this.timers.filter((each) => each !== timer);
      timer.callback();
    }
    await turns();
  }
}

async function turns(): Promise<void> {
  for (let i = 0; i < 5; i++) await new Promise((resolve) => setImmediate(resolve));
}

/** A call under way: what it gives, and how it ends. */
class FakeCall {
  readonly signal: AbortSignal;
  #queue: string[] = [];
  #end: { error: Error | null } | null = null;
  #wake: () => void = () => {};

  constructor(signal: AbortSignal) {
    this.signal = signal;
    signal.addEventListener('abort', () => this.end(new Error('aborted')));
  }

  say(message: string): Promise<void> {
    this.#queue.push(message);
    this.#wake();
    return turns();
  }

  end(error: Error | null): Promise<void> {
    this.#end = { error };
    this.#wake();
    return turns();
  }

  async *messages(): AsyncGenerator<string> {
    for (;;) {
      const message = this.#queue.shift();
      if (message !== undefined) yield message;
      else if (this.#end !== null) {
        if (this.#end.error !== null) throw this.#end.error;
        return;
      } else await new Promise<void>((resolve) => (this.#wake = resolve));
    }
  }
}

function world(longestSilenceMs?: () => number | null) {
  const clock = new TestClock();
  const calls: FakeCall[] = [];
  const taken: string[] = [];
  let denied = 0;
  const subscription = new Subscription<string>({
    open: (signal) => {
      const call = new FakeCall(signal);
      calls.push(call);
      return call.messages();
    },
    onMessage: (message) => {
      if (message === 'bad') throw new Error('it is bad');
      taken.push(message);
    },
    onDenied: () => denied++,
    onProblem: () => {},
    ...(longestSilenceMs === undefined ? {} : { longestSilenceMs }),
    clock,
    random: () => 0,
  });
  const call = (): FakeCall => calls.at(-1) as FakeCall;
  return { clock, calls, call, taken, subscription, denied: () => denied };
}

function status(code: Exclude<(typeof GRPC_STATUS)[keyof typeof GRPC_STATUS], 0>): GrpcStatusError {
  return new GrpcStatusError(code, 'no');
}

test('failures in a row wait longer and longer, up to 30 s', async () => {
  const { clock, call, subscription } = world();
  const waits: (number | null)[] = [];
  for (let i = 0; i < 10; i++) {
    await call().end(status(GRPC_STATUS.UNAVAILABLE));
    waits.push(clock.next);
    await clock.pass(clock.next ?? 0);
  }
  assert.deepEqual(waits, [250, 500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000, 30_000]);
  assert.match(subscription.problem ?? '', /UNAVAILABLE/);
  subscription[Symbol.dispose]();
});

test('a call that was good for a while is made again soon', async () => {
  const { clock, call, calls, subscription } = world();
  for (let i = 0; i < 5; i++) {
    await call().end(status(GRPC_STATUS.UNAVAILABLE));
    await clock.pass(clock.next ?? 0);
  }
  await call().say('state');
  assert.equal(subscription.problem, null);
  await clock.pass(10_000);
  await call().end(null);
  assert.equal(clock.next, 250);
  await clock.pass(250);
  assert.equal(calls.length, 7);
  subscription[Symbol.dispose]();
});

test('what another try does not change is tried again after minutes', async () => {
  for (const code of [GRPC_STATUS.INVALID_ARGUMENT, GRPC_STATUS.UNIMPLEMENTED]) {
    const { clock, call, subscription } = world();
    await call().end(status(code));
    assert.equal(clock.next, 300_000);
    subscription[Symbol.dispose]();
  }
});

test('a bad message is a problem, the call goes on, and a good one ends the problem', async () => {
  const { call, calls, taken, subscription } = world();
  await call().say('one');
  await call().say('bad');
  assert.match(subscription.problem ?? '', /it is bad/);
  await call().say('two');
  assert.equal(subscription.problem, null);
  assert.deepEqual([taken, calls.length], [['one', 'two'], 1]);
  subscription[Symbol.dispose]();
});

test('a denial counts once it has lasted 3 s; NotFound counts at once', async () => {
  const { clock, call, denied, subscription } = world();
  await call().say('state');
  for (const [waits, counted] of [
    [250, 0],
    [500, 0],
    [1000, 0],
    [2000, 0],
    [4000, 1],
  ] as const) {
    await call().end(status(GRPC_STATUS.PERMISSION_DENIED));
    assert.deepEqual([clock.next, denied()], [waits, counted]);
    await clock.pass(waits);
  }
  await call().say('state');
  await call().end(status(GRPC_STATUS.PERMISSION_DENIED));
  assert.equal(denied(), 1, 'a message in between begins anew');
  await clock.pass(clock.next ?? 0);
  await call().end(status(GRPC_STATUS.NOT_FOUND));
  assert.equal(denied(), 2);
  subscription[Symbol.dispose]();
});

test('a server that says nothing is given up: at the start, and where silence is limited', async () => {
  const { clock, call, calls, subscription } = world(() => 5_000);
  await clock.pass(30_000);
  assert.ok(calls[0]?.signal.aborted);
  await clock.pass(250);
  await call().say('state');
  await clock.pass(4_999);
  assert.equal(call().signal.aborted, false);
  await clock.pass(1);
  assert.ok(call().signal.aborted);
  assert.match(subscription.problem ?? '', /said nothing/);
  subscription[Symbol.dispose]();
});

test('after the end there is no call, no timer, and no message is taken', async () => {
  const { clock, call, calls, taken, subscription } = world();
  await call().say('one');
  subscription[Symbol.dispose]();
  await call().say('two');
  assert.ok(call().signal.aborted);
  assert.deepEqual([clock.next, calls.length, taken, subscription.state], [null, 1, ['one'], 'ended']);
});
