import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import {
  authenticate,
  authoriseImpersonation,
  byJoinToken,
  byNodeSvid,
  type Caller,
  type IssuancePeer,
} from '../../../../certs/issuance/caller.ts';
import type { TokenGrant } from '../../../../certs/authority/join-tokens.ts';
import { CertsError } from '../../../../certs/errors.ts';
import { Metadata } from '../../../../src/grpc/metadata.ts';
import { parseSpiffeId } from '../../../../src/model/identity.ts';

const WEB = 'spiffe://cluster.local/ns/ns-a/sa/sa-a';
const redeem = async (): Promise<void> => {};
const NODE: Caller = { node: 'zt-node', by: 'svid', grantedNamespaces: null, redeem };

/** `placed`: `node identity` of each workload there is. `namespaces`: what the node was granted when it joined. */
function impersonate(caller: Caller, requested: string, placed: readonly string[], namespaces: readonly string[] = []): string {
  const placements = { runsOn: (node: string, identity: string) => placed.includes(`${node} ${identity}`) };
  return authoriseImpersonation(caller, requested, { trustDomain: 'cluster.local', placements, namespaces }).text;
}

function peer(identity: string | null): IssuancePeer {
  return { address: '192.0.2.1', identity: identity === null ? null : parseSpiffeId(identity), validFrom: null, expiresAt: null };
}

/** The situations are those of Istio's security/pkg/server/ca/node_auth_test.go (TestSingleClusterNodeAuthorization), as far as there are pods in them. */
describe('impersonation', () => {
  const refused = (caller: Caller, requested: string, placed: readonly string[], why: RegExp): void =>
    assert.throws(() => impersonate(caller, requested, placed), { code: 'WEFT_CERTS_CALLER_REFUSED', message: why });

  test('nothing runs anywhere', () => refused(NODE, WEB, [], /no workload with it runs there/));
  test('it runs on the node', () => assert.equal(impersonate(NODE, WEB, [`zt-node ${WEB}`]), WEB));
  test('it runs on another node', () => refused(NODE, WEB, [`other-node ${WEB}`], /no workload with it runs there/));
  test('it runs on the node and on another', () => assert.equal(impersonate(NODE, WEB, [`zt-node ${WEB}`, `other-node ${WEB}`]), WEB));
  test('what is asked for is no identity', () => refused(NODE, 'not-spiffe-identity', [], /not a SPIFFE ID/));
  test('nothing is asked for', () => refused(NODE, '', [], /not a SPIFFE ID/));
  test('another trust domain, even if somebody placed it', () => {
    const foreign = 'spiffe://other.test/ns/ns-a/sa/sa-a';
    refused(NODE, foreign, [`zt-node ${foreign}`], /another trust domain/);
  });
  test('a node, even if somebody placed it', () => {
    const other = 'spiffe://cluster.local/node/other-node';
    refused(NODE, other, [`zt-node ${other}`], /no workload's identity/);
  });
  test('a caller that has not joined', () => {
    refused({ node: 'zt-node', by: 'one-time-token', grantedNamespaces: ['ns-a'], redeem }, WEB, [`zt-node ${WEB}`], /before it joined/);
  });
  test('a namespace that its token grants', () => {
    assert.equal(impersonate({ node: 'zt-node', by: 'token', grantedNamespaces: ['ns-a'], redeem }, WEB, []), WEB);
    refused({ node: 'zt-node', by: 'token', grantedNamespaces: ['ns-b'], redeem }, WEB, [], /no workload with it runs there/);
  });
  test('a namespace that it was granted when it joined, unless it shows a token that says otherwise', () => {
    assert.equal(impersonate(NODE, WEB, [], ['ns-a']), WEB);
    assert.throws(() => impersonate({ ...NODE, by: 'token', grantedNamespaces: [] }, WEB, [], ['ns-a']), {
      code: 'WEFT_CERTS_CALLER_REFUSED',
    });
  });
});

describe('who calls', () => {
  const looked: string[] = [];
  const redeemed: string[] = [];
  const grant = (token: string): Promise<TokenGrant> => {
    if (token !== 'good') throw new CertsError('WEFT_CERTS_TOKEN', 'it is unknown');
    return Promise.resolve({ id: '', node: 'node-b', namespaces: [], reusable: false, expiresAt: 0 });
  };
  const tokens = byJoinToken({
    find: async (token) => {
      looked.push(token);
      return grant(token);
    },
    redeem: async (token) => {
      redeemed.push(token);
      return grant(token);
    },
  });
  const who = (identity: string | null, ...authorization: readonly string[]): Promise<Caller> =>
    authenticate([byNodeSvid, tokens], peer(identity), new Metadata(authorization.flatMap((value) => ['authorization', value])));
  const unknown = { code: 'WEFT_CERTS_CALLER_UNKNOWN' };

  test('a node, by its SVID', async () => {
    const { node, by, grantedNamespaces } = await who('spiffe://cluster.local/node/node-a');
    assert.deepEqual([node, by, grantedNamespaces], ['node-a', 'svid', null]);
  });
  test('a node that shows a token besides its SVID keeps the token', async () => {
    const caller = await who('spiffe://cluster.local/node/node-a', 'Bearer good');
    await caller.redeem();
    assert.deepEqual([...redeemed], []);
  });
  test('a node, by its token', async () => {
    const caller = await who(null, 'Bearer good');
    assert.deepEqual([caller.node, caller.by, caller.grantedNamespaces], ['node-b', 'one-time-token', []]);
    assert.deepEqual(redeemed, []);
    await caller.redeem();
    assert.deepEqual(redeemed, ['good']);
  });
  test('nobody: no SVID, no token', () => assert.rejects(who(null), unknown));
  test('nobody: a token that is refused', () => assert.rejects(who(null, 'Bearer bad'), unknown));
  test('nobody: two tokens, another scheme, an empty or a long one', async () => {
    for (const fields of [
      ['Bearer good', 'Bearer good'],
      ['Basic good'],
      ['Bearer '],
      ['Bearer good good'],
      [`Bearer ${'x'.repeat(5000)}`],
    ]) {
      looked.length = 0;
      await assert.rejects(who(null, ...fields), unknown);
      assert.deepEqual(looked, []);
    }
  });
  test('a workload, and paths that look like a node’s', async () => {
    for (const path of ['ns/shop/sa/web', 'node/a/b', 'node', 'nodes/a', 'weft-ca']) {
      await assert.rejects(who(`spiffe://cluster.local/${path}`), { code: 'WEFT_CERTS_CALLER_REFUSED' });
    }
  });
});
