import type { Peer } from './peer.ts';

/** No mesh: no agent runs and no hook is attached. What every other peer is compared with. */
export const direct: Peer = {
  name: 'direct',
  async start(site) {
    return {
      url: `http://${site.server.addresses.v4}:${site.serverPort}/bench/item`,
      cpuMicroseconds: () => 0,
      residentBytes: () => 0,
    };
  },
};
