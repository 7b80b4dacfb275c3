import type { ResourceDocument } from '../../test/kit/lab/index.ts';
import { LabAgent } from '../../test/kit/lab/index.ts';
import type { Peer, RunningPeer, Site } from './peer.ts';

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
    const running = await startWeft(site, [POLICY], `http://${site.server.addresses.v4}:${site.serverPort}/bench/item`);
    const refused = await site.client.exec(['curl', '-s', '-o', '/dev/null', '-w', '%{http_code}', '-X', 'DELETE', running.url]);
    if (refused.stdout !== '403') throw new Error(`weft let a DELETE pass that its policy forbids: ${refused.stdout}`);
    return running;
  },
};

/** Agents on all nodes of the site, in strict mode, with these resources and no access log. */
export async function startWeft(site: Site, resources: readonly ResourceDocument[], url: string): Promise<RunningPeer> {
  const config = site.lab.writeConfig({ modes: { bench: 'strict' } });
  config.apply('resources', resources);
  const nodes = [...new Set([site.clientNode, site.serverNode])];
  // One after the other: the first makes the CA that they share.
  for (const node of nodes) await LabAgent.start(node, { config, accessLog: 'off' });
  return {
    url,
    cpuMicroseconds: () => nodes.reduce((sum, node) => sum + node.agentCpuMicroseconds(), 0),
    residentBytes: () => nodes.reduce((sum, node) => sum + node.agentResidentBytes(), 0),
  };
}
