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
import { CertsError } from '../../../../certs/errors.ts';
import { Metadata } from '../../../../src/grpc/metadata.ts';
import { parseSpiffeId } from '../../../../src/model/identity.ts';

const WEB = 'spiffe://cluster.local/ns/ns-a/sa/sa-a';
const NODE: Caller = { node: 'zt-node', by: 'svid', grantedNamespaces: null };

/** `placed`: `node identity` of each workload there is. */
function impersonate(caller: Caller, requested: string, placed: readonly string[]): string {
  const placements = { runsOn: (node: string, identity: string) => placed.includes(`${node} ${identity}`) };
  return authoriseImpersonation(caller, requested, { trustDomain: 'cluster.local', placements, nodes: { mayRun: () => false } }).text;
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
    refused({ node: 'zt-node', by: 'one-time-token', grantedNamespaces: ['ns-a'] }, WEB, [`zt-node ${WEB}`], /before it joined/);
  });
  test('a namespace that its token grants', () => {
    assert.equal(impersonate({ node: 'zt-node', by: 'token', grantedNamespaces: ['ns-a'] }, WEB, []), WEB);
    refused({ node: 'zt-node', by: 'token', grantedNamespaces: ['ns-b'] }, WEB, [], /no workload with it runs there/);
  });
});

describe('who calls', () => {
  const redeemed: string[] = [];
  const tokens = byJoinToken({
    redeem: async (token) => {
      redeemed.push(token);
      if (token !== 'good') throw new CertsError('WEFT_CERTS_TOKEN', 'it is unknown');
      return { id: '', node: 'node-b', namespaces: [], reusable: false, expiresAt: 0 };
    },
  });
  const who = (identity: string | null, ...authorization: readonly string[]): Promise<Caller> =>
    authenticate([byNodeSvid, tokens], peer(identity), new Metadata(authorization.flatMap((value) => ['authorization', value])));
  const unknown = { code: 'WEFT_CERTS_CALLER_UNKNOWN' };

  test('a node, by its SVID', async () => {
    assert.deepEqual(await who('spiffe://cluster.local/node/node-a'), { node: 'node-a', by: 'svid', grantedNamespaces: null });
  });
  test('a node that shows a token besides its SVID keeps the token', async () => {
    redeemed.length = 0;
    await who('spiffe://cluster.local/node/node-a', 'Bearer good');
    assert.deepEqual(redeemed, []);
  });
  test('a node, by its token', async () => {
    assert.deepEqual(await who(null, 'Bearer good'), { node: 'node-b', by: 'one-time-token', grantedNamespaces: [] });
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
      redeemed.length = 0;
      await assert.rejects(who(null, ...fields), unknown);
      assert.deepEqual(redeemed, []);
    }
  });
  test('a workload, and paths that look like a node’s', async () => {
    for (const path of ['ns/shop/sa/web', 'node/a/b', 'node', 'nodes/a', 'weft-ca']) {
      await assert.rejects(who(`spiffe://cluster.local/${path}`), { code: 'WEFT_CERTS_CALLER_REFUSED' });
    }
  });
});
