import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { ResourceDocument } from '../../test/kit/lab/index.ts';
import { GRPC_MESSAGE, GRPC_METHOD } from '../nginx.ts';
import type { Peer, Site } from './peer.ts';
import { POLICY, startWeft } from './weft.ts';

/** Who may call which gRPC method: the measured one is the last. */
export const GRPC_POLICY: ResourceDocument = {
  apiVersion: 'security.istio.io/v1',
  kind: 'AuthorizationPolicy',
  metadata: { name: 'server-grpc', namespace: 'bench' },
  spec: {
    selector: { matchLabels: { app: 'server' } },
    action: 'ALLOW',
    rules: [
      { from: [{ source: { namespaces: ['operations'] } }], to: [{ operation: { paths: ['/bench.Admin/*'] } }] },
      { to: [{ operation: { paths: ['/grpc.health.v1.Health/Check'] } }] },
      {
        from: [{ source: { namespaces: ['bench'], principals: ['*/ns/bench/sa/client'] } }],
        to: [{ operation: { methods: ['POST'], paths: [GRPC_METHOD] } }],
      },
    ],
  },
};

/** The Service of the server pod: `appProtocol` says how its HTTP port is treated. */
export function serverService(appProtocol: 'tcp' | 'http', addresses: readonly string[], port: number): ResourceDocument {
  return {
    apiVersion: 'v1',
    kind: 'Service',
    metadata: { name: 'server', namespace: 'bench' },
    spec: { clusterIPs: addresses, selector: { app: 'server' }, ports: [{ name: 'web', port, targetPort: port, appProtocol }] },
  };
}

/** The same HTTP/1.1 traffic through the same agent and Service, as bytes that nobody reads. */
export const opaque: Peer = {
  name: 'opaque',
  async start(site) {
    const running = await startWeft(site, [service(site, 'tcp')], itemUrl(site));
    await expectStatus(site, 'DELETE', '200', 'weft read the requests of a port that is declared tcp');
    return running;
  },
};

/** The same again, each request read and decided by an ALLOW policy of methods and paths. */
export const l7: Peer = {
  name: 'l7',
  async start(site) {
    const running = await startWeft(site, [service(site, 'http'), POLICY], itemUrl(site));
    await expectStatus(site, 'DELETE', '403', 'weft let a DELETE pass that its policy forbids');
    return running;
  },
};

/** gRPC without a mesh. */
export const grpcDirect: Peer = {
  name: 'grpc-direct',
  async start(site) {
    await expectGrpcStatus(site, GRPC_METHOD, 0);
    return { url: grpcUrl(site, GRPC_METHOD), cpuMicroseconds: () => 0, residentBytes: () => 0 };
  },
};

/** gRPC through an agent in strict mode, with an allowlist of methods. */
export const grpcWeft: Peer = {
  name: 'grpc-weft',
  async start(site) {
    const running = await startWeft(site, [GRPC_POLICY], grpcUrl(site, GRPC_METHOD));
    await expectGrpcStatus(site, GRPC_METHOD, 0);
    await expectGrpcStatus(site, '/bench.Echo/Forbidden', 7);
    return running;
  },
};

function service(site: Site, appProtocol: 'tcp' | 'http'): ResourceDocument {
  const { v4, v6 } = site.lab.serviceAddresses();
  return serverService(appProtocol, [v4, v6], site.serverPort);
}

function itemUrl(site: Site): string {
  return `http://${site.server.addresses.v4}:${site.serverPort}/bench/item`;
}

function grpcUrl(site: Site, method: string): string {
  return `http://${site.server.addresses.v4}:${site.grpcPort}${method}`;
}

async function expectStatus(site: Site, method: string, wanted: string, problem: string): Promise<void> {
  const answer = await site.client.exec(['curl', '-s', '-o', '/dev/null', '-w', '%{http_code}', '-X', method, itemUrl(site)]);
  if (answer.stdout !== wanted) throw new Error(`${problem}: ${method} was answered with ${answer.stdout}, not ${wanted}`);
}

async function expectGrpcStatus(site: Site, method: string, wanted: number): Promise<void> {
  const message = join(site.lab.directory, 'message');
  writeFileSync(message, GRPC_MESSAGE, { mode: 0o600 });
  const headers = ['-H', 'content-type: application/grpc', '-H', 'te: trailers'];
  const answer = await site.client.exec(['nghttp', '-v', '-d', message, ...headers, grpcUrl(site, method)]);
  const status = /grpc-status: (\d+)/.exec(answer.stdout)?.[1];
  if (status !== String(wanted)) throw new Error(`${method} ended with gRPC status ${status}, not ${wanted}: ${answer.stdout}`);
}
