import { Lab } from '../test/kit/lab/index.ts';
import { GRPC_PORT, SERVER_PORT, startNginx } from './nginx.ts';
import type { Site } from './peers/peer.ts';

/** Where client and server are. */
export type Placement = 'same-node' | 'cross-node';

/** A new lab with nginx in the server pod. Dispose of `site.lab`. */
export async function createSite(placement: Placement): Promise<Site> {
  const lab = await Lab.create({ name: `bench ${placement}` });
  try {
    const clientNode = await lab.node('node-a');
    const serverNode = placement === 'same-node' ? clientNode : await lab.node('node-b');
    const client = await clientNode.pod('client', { namespace: 'bench' });
    const server = await serverNode.pod('server', { namespace: 'bench' });
    await startNginx(serverNode, server);
    return { lab, client, clientNode, server, serverNode, serverPort: SERVER_PORT, grpcPort: GRPC_PORT };
  } catch (error) {
    await lab[Symbol.asyncDispose]();
    throw error;
  }
}
