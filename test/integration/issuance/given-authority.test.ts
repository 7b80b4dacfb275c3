import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { request } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import type { AgentOptions } from '../../../src/agent/agent-options.ts';
import { openIdentityProvider } from '../../../src/agent/identity-provider.ts';
import { createLog } from '../../../src/log/log.ts';
import type { AuthorityStatusAnswer } from '../../../src/model/authority-api.ts';
import { forgeRoot, TRUST_DOMAIN } from '../../unit/certs/forge.ts';

function ask(directory: string, method: string, path: string): Promise<string> {
  return new Promise((resolve, reject) => {
    request({ socketPath: join(directory, 'run/ca.sock'), method, path }, async (response) => {
      const body = (await response.toArray()).join('');
      if ((response.statusCode ?? 500) < 300) resolve(body);
      else reject(new Error(body));
    })
      .on('error', reject)
      .end();
  });
}

test('an eviction from an authority of --ca-cert outlasts the agent', async () => {
  const directory = mkdtempSync(join(tmpdir(), 'weft-given-'));
  try {
    const { pem, privateKey } = await forgeRoot();
    writeFileSync(join(directory, 'ca.pem'), pem);
    writeFileSync(join(directory, 'ca.key'), privateKey, { mode: 0o600 });
    const start = async (): Promise<AsyncDisposable> => {
      const owner = new AsyncDisposableStack();
      await openIdentityProvider(
        {
          nodeName: 'node-a',
          trustDomain: TRUST_DOMAIN,
          stateDirectory: join(directory, 'state'),
          runDirectory: join(directory, 'run'),
          issuance: null,
          bundleEndpoint: null,
          certificateAuthority: {
            kind: 'given',
            certificateFile: join(directory, 'ca.pem'),
            keyFile: join(directory, 'ca.key'),
            passphraseFile: null,
          },
        } as AgentOptions,
        { placements: { runsOn: () => false }, processes: { pidOf: () => null }, log: createLog('silent'), owner },
      );
      return owner;
    };
    {
      await using _agent = await start();
      await ask(directory, 'DELETE', '/v1/authority/nodes/node-b');
    }
    await using _agent = await start();
    const { nodes } = JSON.parse(await ask(directory, 'GET', '/v1/authority')) as AuthorityStatusAnswer;
    assert.deepEqual(
      nodes.map(({ name, evicted }) => [name, evicted]),
      [['node-b', true]],
    );
    assert.match(await ask(directory, 'GET', '/metrics'), /^weft_authority_nodes\{state="evicted"\} 1$/m);
  } finally {
    rmSync(directory, { recursive: true });
  }
});
