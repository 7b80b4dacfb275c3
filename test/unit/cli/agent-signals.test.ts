import assert from 'node:assert/strict';
import { EventEmitter } from 'node:events';
import { test } from 'node:test';
import { setImmediate as turn } from 'node:timers/promises';
import { type AgentProcess, runAgent } from '../../../src/cli/commands/agent.ts';
import { WeftError } from '../../../src/model/errors.ts';
import { RecordedTerminal } from './recorded-terminal.ts';

class FakeProcess extends EventEmitter implements AgentProcess {
  readonly exits: number[] = [];

  exit(code: number): void {
    this.exits.push(code);
  }

  signal(name: NodeJS.Signals): void {
    this.emit(name, name);
  }
}

function fakeAgent(): {
  events: string[];
  drained: PromiseWithResolvers<void>;
  start: () => Promise<AsyncDisposable & { drain(): Promise<void> }>;
} {
  const events: string[] = [];
  const drained = Promise.withResolvers<void>();
  const start = async (): Promise<AsyncDisposable & { drain(): Promise<void> }> => {
    events.push('start');
    return {
      drain() {
        events.push('drain');
        return drained.promise;
      },
      async [Symbol.asyncDispose]() {
        events.push('dispose');
      },
    };
  };
  return { events, drained, start };
}

async function failToStart(): Promise<never> {
  throw new WeftError('WEFT_BPF_LOAD', 'the kernel said\n  no', { nextStep: 'run `weft doctor`' });
}

for (const signal of ['SIGTERM', 'SIGINT'] as const) {
  test(`${signal} drains the agent and ends with 0`, async () => {
    const host = new FakeProcess();
    const { events, drained, start } = fakeAgent();
    const running = runAgent(start, new RecordedTerminal(), host);
    await turn();
    assert.deepEqual(events, ['start']);
    host.signal(signal);
    await turn();
    assert.deepEqual(events, ['start', 'drain']);
    drained.resolve();
    assert.equal(await running, 0);
    assert.deepEqual(events, ['start', 'drain', 'dispose']);
    assert.deepEqual(host.exits, []);
    assert.equal(host.listenerCount(signal), 0);
  });
}

test('a signal while the agent starts drains it as soon as it runs', async () => {
  const host = new FakeProcess();
  const { events, drained, start } = fakeAgent();
  drained.resolve();
  const running = runAgent(start, new RecordedTerminal(), host);
  host.signal('SIGTERM');
  assert.equal(await running, 0);
  assert.deepEqual(events, ['start', 'drain', 'dispose']);
});

test('a second signal ends at once', async () => {
  const host = new FakeProcess();
  const { drained, start } = fakeAgent();
  const running = runAgent(start, new RecordedTerminal(), host);
  await turn();
  host.signal('SIGTERM');
  host.signal('SIGINT');
  assert.deepEqual(host.exits, [130]);
  drained.resolve();
  await running;
});

test('SIGHUP does nothing', async () => {
  const host = new FakeProcess();
  const { events, drained, start } = fakeAgent();
  const running = runAgent(start, new RecordedTerminal(), host);
  await turn();
  assert.equal(host.listenerCount('SIGHUP'), 1);
  host.signal('SIGHUP');
  await turn();
  assert.deepEqual(events, ['start']);
  host.signal('SIGTERM');
  drained.resolve();
  await running;
});

test('an agent that cannot start is one clear line and exit code 1', async () => {
  const terminal = new RecordedTerminal();
  assert.equal(await runAgent(failToStart, terminal, new FakeProcess()), 1);
  assert.equal(terminal.errors, 'weft: WEFT_BPF_LOAD: the kernel said no\nnext: run `weft doctor`\n');
});
