import type { ResourceDocument } from '../../test/kit/lab/index.ts';
import { LabAgent } from '../../test/kit/lab/index.ts';
import type { Peer } from './peer.ts';

/** Who may do what: several rules, so that matching is part of the cost. The measured request matches the last. */
export const POLICY: ResourceDocument = {
  apiVersion: 'security.istio.io/v1',
  kind: 'AuthorizationPolicy',
  metadata: { name: 'server-allow', namespace: 'bench' },
  spec: {
    selector: { matchLabels: { app: 'server' } },
    action: 'ALLOW',
    rules: [
      { from: [{ source: { namespaces: ['operations'] } }], to: [{ operation: { methods: ['GET', 'POST'], paths: ['/admin/*'] } }] },
      { to: [{ operation: { methods: ['GET'], paths: ['/health', '/ready'] } }] },
      {
        from: [{ source: { namespaces: ['bench'], principals: ['*/ns/bench/sa/client'] } }],
        to: [{ operation: { methods: ['GET', 'HEAD'], paths: ['/bench/*'] } }],
      },
    ],
  },
};

/** Weft: strict, mutual TLS between nodes, the kernel's attestation on one, and an HTTP allowlist at the server. */
export const weft: Peer = {
  name: 'weft',
  async start(site) {
    const config = site.lab.writeConfig({ modes: { bench: 'strict' } });
    config.apply('policy', [POLICY]);
    const nodes = [...new Set([site.clientNode, site.serverNode])];
    // One after the other: the first makes the CA that they share.
    for (const node of nodes) await LabAgent.start(node, { config, accessLog: 'off' });
    const url = `http://${site.server.addresses.v4}:${site.serverPort}/bench/item`;
    const refused = await site.client.exec(['curl', '-s', '-o', '/dev/null', '-w', '%{http_code}', '-X', 'DELETE', url]);
    if (refused.stdout !== '403') throw new Error(`weft let a DELETE pass that its policy forbids: ${refused.stdout}`);
    return {
      url,
      cpuMicroseconds: () => nodes.reduce((sum, node) => sum + node.agentCpuMicroseconds(), 0),
      residentBytes: () => nodes.reduce((sum, node) => sum + node.agentResidentBytes(), 0),
    };
  },
};
