import assert from 'node:assert/strict';
import { resolve } from 'node:path';
import { test } from 'node:test';
import { spireAgent } from '../../../src/cli/spire-flags.ts';
import { CliError } from '../../../src/cli/cli-error.ts';

const path = (_flag: string, text: string): string => resolve('/work', text);

test('a SPIRE agent is named by its sockets', () => {
  assert.equal(spireAgent({}, path), null);
  assert.deepEqual(spireAgent({ spireSocket: 'api.sock' }, path), { kind: 'spire', socketPath: '/work/api.sock', broker: null });
  assert.deepEqual(spireAgent({ spireSocket: '/a', spireBrokerSocket: '/b' }, path)?.broker, { socketPath: '/b', servers: [] });
  const servers = ['spiffe://mesh.test/spire/agent/x'];
  assert.deepEqual(spireAgent({ spireSocket: '/a', spireBrokerSocket: '/b', spireBrokerId: servers }, path)?.broker?.servers, servers);
});

test('flags that make no sense together are refused with what to do', () => {
  for (const [flags, says] of [
    [{ spireBrokerSocket: '/b' }, /--spire-socket/],
    [{ spireBrokerId: ['spiffe://mesh.test/spire/agent/x'] }, /--spire-socket/],
    [{ spireSocket: '/a', spireBrokerId: ['spiffe://mesh.test/spire/agent/x'] }, /--spire-broker-socket/],
    [{ spireSocket: '/a', caDir: '/ca' }, /--ca/],
    [{ spireSocket: '/a', caCert: 'c', caKey: 'k' }, /--ca/],
    [{ spireSocket: '/a', spireBrokerSocket: '/b', spireBrokerId: ['agent'] }, /SPIFFE ID/],
  ] as const) {
    assert.throws(
      () => spireAgent(flags, path),
      (error: unknown) => error instanceof CliError && says.test(error.describe()),
      JSON.stringify(flags),
    );
  }
});
