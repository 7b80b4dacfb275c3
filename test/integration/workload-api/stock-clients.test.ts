import assert from 'node:assert/strict';
import { before, test } from 'node:test';
import { Child, exec } from '../../kit/child.ts';
import { spiffeGo } from '../../kit/spiffe-go.ts';
import { WorkloadApiWorld } from '../../kit/workload-api-world.ts';

// go-spiffe as it is, against the API on a real socket: the caller is known by its cgroup alone.

let client = '';
before(() => {
  client = spiffeGo();
});

interface Said {
  readonly id?: string;
  readonly serial?: string;
  readonly trustDomains?: number;
  readonly watchError?: string;
  readonly error?: string;
  readonly code?: string;
  readonly token?: string;
  readonly audience?: readonly string[];
  readonly claims?: Readonly<Record<string, unknown>>;
  readonly listening?: string;
  readonly peer?: string;
  readonly echo?: string;
  readonly x509?: number;
  readonly jwt?: number;
  readonly sourceAgrees?: boolean;
}

function lines(text: string): Said[] {
  return text
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => JSON.parse(line) as Said);
}

class Stock {
  readonly #env: Readonly<Record<string, string>>;
  readonly #inside: (command: readonly string[]) => string[];

  constructor(world: WorkloadApiWorld, inside: (command: readonly string[]) => string[]) {
    this.#env = { SPIFFE_ENDPOINT_SOCKET: `unix://${world.socket}` };
    this.#inside = inside;
  }

  async run(...args: readonly string[]): Promise<Said[]> {
    return lines((await exec(this.#inside([client, ...args]), { env: this.#env })).stdout);
  }

  start(...args: readonly string[]): Promise<Child> {
    return Child.start(this.#inside([client, ...args]), { env: this.#env });
  }
}

async function until<Value>(what: string, look: () => Value | undefined | false): Promise<Value> {
  const deadline = performance.now() + 20_000;
  for (;;) {
    const value = look();
    if (value !== undefined && value !== false) return value;
    assert.ok(performance.now() < deadline, what);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

test('go-spiffe gets the SVID, key and bundle of the workload that its process is part of', async () => {
  await using world = await WorkloadApiWorld.start();
  const cart = await world.workload('cart');
  const [said] = await new Stock(world, cart.inside).run('x509');
  assert.equal(said?.id, cart.identity, JSON.stringify(said));
  assert.equal(said.trustDomains, 1);
});

test('a process of no workload is denied', async () => {
  await using world = await WorkloadApiWorld.start();
  const [said] = await new Stock(world, (command) => [...command]).run('x509');
  assert.equal(said?.code, 'PermissionDenied', JSON.stringify(said));
});

test('a renewed SVID and a bundle of another trust domain are pushed, and the end of the enrolment ends the stream', async () => {
  await using world = await WorkloadApiWorld.start();
  const cart = await world.workload('cart');
  await using watching = await new Stock(world, cart.inside).start('watch', '9');
  const said = (): Said[] => lines(watching.stdout);
  const first = await until('no first message', () => said()[0]);
  await world.renew(cart.identity);
  const second = await until('no push of the renewal', () => said()[1]);
  assert.notEqual(second.serial, first.serial);
  world.federated = [
    {
      trustDomain: 'far.test',
      x509Authorities: world.own?.x509Authorities ?? [],
      jwtAuthorities: [],
      sequence: 1n,
      refreshHintSeconds: null,
    },
  ];
  world.changed();
  const third = await until('no push of the bundle', () => said()[2]);
  assert.deepEqual([third.serial, third.trustDomains], [second.serial, 2]);
  world.release(cart.cgroup);
  assert.equal((await until('the stream goes on', () => said()[3])).watchError, 'PermissionDenied');
});

test('go-spiffe gets a JWT-SVID, verifies it with the key set of the API, and the API verifies it too', async () => {
  await using world = await WorkloadApiWorld.start();
  const cart = await world.workload('cart');
  const stock = new Stock(world, cart.inside);
  const [fetched] = await stock.run('jwt', 'db');
  assert.equal(fetched?.id, cart.identity, JSON.stringify(fetched));
  assert.deepEqual(fetched.audience, ['db']);
  const [validated] = await stock.run('validate', 'db', fetched.token as string);
  assert.equal(validated?.id, cart.identity, JSON.stringify(validated));
  assert.equal(validated.claims?.['sub'], cart.identity);
  assert.equal((await stock.run('validate', 'other', fetched.token as string))[0]?.code, 'InvalidArgument');
  const [again] = await stock.run('jwt', 'db', cart.identity);
  assert.equal(again?.token, fetched.token, 'one token until half of its life has passed');
  assert.equal(world.signed, 1);
});

test('a JWT-SVID of another identity is denied', async () => {
  await using world = await WorkloadApiWorld.start();
  const cart = await world.workload('cart');
  const [said] = await new Stock(world, cart.inside).run('jwt', 'db', 'spiffe://world.test/ns/shop/sa/admin');
  assert.equal(said?.code, 'PermissionDenied', JSON.stringify(said));
});

test('go-spiffe gets bundles of both kinds', async () => {
  await using world = await WorkloadApiWorld.start();
  const cart = await world.workload('cart');
  const [said] = await new Stock(world, cart.inside).run('bundles');
  assert.deepEqual([said?.x509, said?.jwt, said?.sourceAgrees], [1, 1, true], JSON.stringify(said));
});

test('two workloads speak mTLS with spiffetls, and each knows the other', async () => {
  await using world = await WorkloadApiWorld.start();
  const [cart, catalog] = [await world.workload('cart'), await world.workload('catalog')];
  await using server = await new Stock(world, catalog.inside).start('serve', '127.0.0.1:0', cart.identity);
  const { listening } = await until('the server does not listen', () => lines(server.stdout)[0]);
  const [said] = await new Stock(world, cart.inside).run('dial', listening as string, catalog.identity);
  assert.deepEqual([said?.peer, said?.echo], [catalog.identity, 'hello'], JSON.stringify(said));
});
