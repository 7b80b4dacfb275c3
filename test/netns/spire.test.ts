/** Whole agents whose identities come from SPIRE: what it gives, replaces and takes back decides what goes over the wire. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import type { SvidsAnswer } from '../../src/model/admin-api.ts';
import { FakeSpire } from '../kit/fake-spire.ts';
import { app, type Child, Lab, LabAgent, type LabNode, type LabPod } from '../kit/lab/index.ts';
import { Caller, HTTP_PORT, readAccessLog } from '../kit/mesh.ts';

const WEFT = 'spiffe://mesh.test/weft/node-a';
const CLIENT = 'spiffe://mesh.test/ns/shop/sa/client';
const FAR = 'spiffe://mesh.test/ns/shop/sa/far';
const TTL_SECONDS = 3600;
const HELD = 3;
const LONG_GONE_MS = 15_000;
const SOON_MS = 4_000;
const EVENTUALLY_MS = 20_000;

type Api = 'Workload API' | 'Broker API';

async function eventually(what: string, holds: () => Promise<boolean>): Promise<void> {
  const deadline = performance.now() + EVENTUALLY_MS;
  while (!(await holds())) {
    assert.ok(performance.now() < deadline, `within ${EVENTUALLY_MS} ms: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

/** SPIRE, and a mesh on it: the pod client on node-a and the pod far, with an HTTP server, on node-b. */
class SpireMesh implements AsyncDisposable {
  readonly #stack = new AsyncDisposableStack();
  readonly #api: Api;
  spire!: FakeSpire;
  client!: LabPod;
  far!: LabPod;
  /** The process of each identity's workload. */
  readonly processes: Map<string, Child> = new Map();
  readonly agents: LabAgent[] = [];

  private constructor(api: Api) {
    this.#api = api;
  }

  static async start(api: Api): Promise<SpireMesh> {
    const mesh = new SpireMesh(api);
    try {
      await mesh.#start();
      return mesh;
    } catch (error) {
      await mesh[Symbol.asyncDispose]();
      throw error;
    }
  }

  async #start(): Promise<void> {
    this.spire = this.#stack.use(await FakeSpire.start('mesh.test'));
    const lab = this.#stack.use(await Lab.create({ name: 'spire' }));
    const nodeA = await lab.node('node-a');
    const nodeB = await lab.node('node-b');
    this.client = await nodeA.pod('client', { namespace: 'shop' });
    this.far = await nodeB.pod('far', { namespace: 'shop' });
    const config = lab.writeConfig({ modes: { shop: 'strict' } });
    const server = await this.far.spawn(app('http-server', HTTP_PORT));
    await server.waitForLine(/listening/);
    this.processes.set(FAR, server).set(CLIENT, await this.client.spawn(['sleep', '600']));
    this.spire.pushBundles();
    await this.give([CLIENT, FAR]);
    const broker = this.#api === 'Broker API' ? ['--spire-broker-socket', this.spire.brokerPath] : [];
    const start = (node: LabNode): Promise<LabAgent> =>
      LabAgent.start(node, {
        config,
        caDirectory: null,
        arguments: ['--trust-domain', 'mesh.test', '--spire-socket', this.spire.socketPath, ...broker],
      });
    this.agents.push(...(await Promise.all([nodeA, nodeB].map(start))));
  }

  /** Has SPIRE push new SVIDs for these workloads, and none for the others. */
  async give(identities: readonly string[], ttlSeconds = TTL_SECONDS): Promise<void> {
    const svids = await Promise.all(identities.map((identity) => this.spire.svid(identity, { ttlSeconds })));
    if (this.#api === 'Workload API') {
      this.spire.pushSvids(...svids);
      return;
    }
    this.spire.pushSvids(await this.spire.svid(WEFT));
    for (const [identity, { pid }] of this.processes)
      this.spire.pushWorkload(pid, ...svids.filter(({ spiffeId }) => spiffeId === identity));
  }

  /** Has SPIRE push a bundle of these roots, and waits until both nodes verify with it. */
  async pushRoots(...roots: readonly Uint8Array[]): Promise<void> {
    this.spire.x509Bundles.set({ message: { crl: [], bundles: new Map([['spiffe://mesh.test', Buffer.concat(roots)]]) } });
    await this.everyAgent(`${roots.length} roots`, ({ bundles }) => bundles.some((bundle) => bundle.roots === roots.length));
  }

  async everyAgent(what: string, holds: (answer: SvidsAnswer) => boolean): Promise<void> {
    for (const agent of this.agents) await eventually(what, async () => holds(await agent.json<SvidsAnswer>('/v1/svids')));
  }

  /** Waits until the nodes have an SVID for an identity, or until none has. */
  async holds(wanted: string, held: boolean): Promise<void> {
    await this.everyAgent(`${held ? 'an' : 'no'} SVID of ${wanted}`, ({ svids }) =>
      svids.every(({ identity, notAfter }) => identity !== wanted || (notAfter !== null) === held),
    );
  }

  /** The status of a request from client to far, 0 when there was no answer. */
  async call(address: string = this.far.addresses.v4): Promise<number> {
    const url = `http://${address.includes(':') ? `[${address}]` : address}:${HTTP_PORT}/`;
    const { stdout } = await this.client.exec(['curl', '-s', '-o', '/dev/null', '-w', '%{http_code}', '--max-time', '10', url]);
    return Number(stdout);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#stack.disposeAsync();
  }
}

for (const api of ['Workload API', 'Broker API'] as const) {
  describe(`a mesh on SPIRE, by its ${api}`, () => {
    it('is mTLS with the SVIDs that SPIRE gave', async () => {
      await using mesh = await SpireMesh.start(api);
      for (const address of [mesh.far.addresses.v4, mesh.far.addresses.v6]) assert.equal(await mesh.call(address), 200, address);
      const line = readAccessLog(mesh.agents[1] as LabAgent).find(({ direction }) => direction === 'inbound');
      assert.equal(line?.security, 'mtls');
      assert.deepEqual([line?.source.identity, line?.destination.identity], [CLIENT, FAR]);
    });

    it('goes over to a new root and new SVIDs without a failed call', async () => {
      await using mesh = await SpireMesh.start(api);
      await using caller = new Caller(() => mesh.call());
      await caller.more(5);
      const old = mesh.spire.roots;
      await mesh.spire.replaceAuthority();
      await mesh.pushRoots(old, mesh.spire.roots);
      await caller.more(5);
      const given = Date.now();
      await mesh.give([CLIENT, FAR], 2 * TTL_SECONDS);
      const isNew = (notAfter: string | null): boolean => Date.parse(notAfter ?? '') > given + 1.5 * TTL_SECONDS * 1000;
      await mesh.everyAgent('its new SVID', ({ svids }) => svids.every(({ notAfter }) => isNew(notAfter)));
      await caller.more(5);
      await mesh.pushRoots(mesh.spire.roots);
      await caller.more(20);
      await caller.stop();
      assert.deepEqual([...caller.statuses.keys()], [200]);
    });

    it('refuses new connections of a workload whose SVID was withdrawn, until it has one again', async () => {
      await using mesh = await SpireMesh.start(api);
      for (const [withdrawn, kept] of [
        [CLIENT, FAR],
        [FAR, CLIENT],
      ] as const) {
        assert.equal(await mesh.call(), 200);
        const held = await mesh.client.spawn(app('connections', 'hold', mesh.far.addresses.v6, HTTP_PORT, HELD), { stdin: 'pipe' });
        await held.waitForLine(new RegExp(`^holding ${HELD} 0$`));
        await mesh.give([kept]);
        await mesh.holds(withdrawn, false);
        assert.equal(await mesh.call(), 0, 'also not over the tunnel that is there');
        held.input?.end();
        // As with an SVID that expires.
        await held.waitForLine(/^lost 0$/);
        await mesh.give([CLIENT, FAR]);
        await eventually(`${withdrawn} is back`, async () => (await mesh.call()) === 200);
      }
    });

    it('serves with what it has while SPIRE is away, and follows it again afterwards', async () => {
      await using mesh = await SpireMesh.start(api);
      await mesh.spire.crash();
      for (let again = 0; again < 3; again++) assert.equal(await mesh.call(), 200);
      await mesh.spire.listen();
      await mesh.give([FAR]);
      await eventually('what SPIRE says now counts', async () => (await mesh.call()) !== 200);
    });
  });
}

describe('a workload that SPIRE attests by its process', () => {
  it('has no SVID once that has exited, and one again soon after another has started', async () => {
    await using mesh = await SpireMesh.start('Broker API');
    assert.equal(await mesh.call(), 200);
    await mesh.processes.get(CLIENT)?.[Symbol.asyncDispose]();
    await mesh.holds(CLIENT, false);
    assert.equal(await mesh.call(), 0);
    // By now the agent would ask again after many seconds only.
    await new Promise((resolve) => setTimeout(resolve, LONG_GONE_MS));
    mesh.processes.set(CLIENT, await mesh.client.spawn(['sleep', '600']));
    await mesh.give([CLIENT, FAR]);
    const started = performance.now();
    await mesh.holds(CLIENT, true);
    assert.equal(await mesh.call(), 200);
    const took = performance.now() - started;
    assert.ok(took < SOON_MS, `after ${took} ms`);
  });
});
