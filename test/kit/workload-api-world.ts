import { generateKeyPairSync, type KeyObject, randomUUID, sign } from 'node:crypto';
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { cgroupId } from '../../bpf/place-descriptors.ts';
import { Authority } from '../../certs/authority/authority.ts';
import type { SpiffeBundle } from '../../certs/bundle/trust-state.ts';
import { ChangeNotifier } from '../../certs/change-notifier.ts';
import type { JwtSvid } from '../../certs/identity-provider.ts';
import { certifiedKey } from '../../certs/svid/certified-key.ts';
import type { WorkloadApiSource } from '../../certs/workload-api/workload-api.ts';
import type { LocalPlace, LocalPlaces } from '../../src/agent/local-places.ts';
import { createLog } from '../../src/log/log.ts';
import { type RunningWorkloadApi, startWorkloadApi } from '../../src/agent/workload-api-socket.ts';
import type { SvidMaterial } from '../../src/model/data-plane.ts';
import { cgroup2Mount, removeCgroupTree } from './lab/cgroup.ts';

const TRUST_DOMAIN = 'world.test';

/** A Workload API on a real socket, with a real authority, and workloads that are cgroups of this process's own. */
export class WorkloadApiWorld implements WorkloadApiSource, AsyncDisposable {
  readonly directory: string;
  readonly socket: string;
  readonly logged: string[] = [];
  /** JWT-SVIDs that were signed. */
  signed = 0;
  federated: SpiffeBundle[] = [];
  own: SpiffeBundle | null = null;
  readonly #notifier = new ChangeNotifier();
  readonly #svids = new Map<string, SvidMaterial>();
  readonly #cgroups = new Map<bigint, LocalPlace>();
  readonly #paths: string[] = [];
  readonly #jwtKey: KeyObject;
  readonly #authority: Authority;
  #api: RunningWorkloadApi | null = null;

  private constructor(directory: string, authority: Authority) {
    this.directory = directory;
    this.socket = join(directory, 'public', 'workload-api.sock');
    this.#authority = authority;
    const { privateKey, publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
    this.#jwtKey = privateKey;
    this.own = {
      trustDomain: TRUST_DOMAIN,
      x509Authorities: authority.trust().bundle.x509Authorities,
      jwtAuthorities: [{ keyId: 'first', jwk: publicKey.export({ format: 'jwk' }) }],
      sequence: 1n,
      refreshHintSeconds: null,
    };
  }

  static async start(): Promise<WorkloadApiWorld> {
    const directory = mkdtempSync(join(tmpdir(), 'weft-workload-api-'));
    const authority = await Authority.open({ directory: join(directory, 'ca'), trustDomain: TRUST_DOMAIN, nodeName: 'world' });
    const world = new WorkloadApiWorld(directory, authority);
    world.#api = await startWorkloadApi({
      path: world.socket,
      source: world,
      registry: { localPlaces: () => world.#places(), onChange: (listener) => world.#notifier.subscribe(listener) },
      cgroupMount: cgroup2Mount(),
      log: createLog('debug', { write: (line: string) => void world.logged.push(line) }),
    });
    return world;
  }

  get api(): RunningWorkloadApi {
    return this.#api as RunningWorkloadApi;
  }

  #places(): LocalPlaces {
    return { networkNamespaces: new Map(), cgroups: new Map(this.#cgroups) };
  }

  /** Makes a cgroup and enrols it. */
  async workload(
    name: string,
  ): Promise<{ readonly identity: string; readonly cgroup: string; inside(command: readonly string[]): string[] }> {
    const cgroup = join(cgroup2Mount(), `weft-api-${process.pid}-${name}`);
    mkdirSync(cgroup);
    this.#paths.push(cgroup);
    const identity = `spiffe://${TRUST_DOMAIN}/ns/shop/sa/${name}`;
    this.#cgroups.set(cgroupId(cgroup), { workload: `shop/${name}`, identity });
    await this.renew(identity);
    return { identity, cgroup, inside: (command) => ['sh', '-c', `echo 0 > ${cgroup}/cgroup.procs; exec "$@"`, 'sh', ...command] };
  }

  /** Takes a workload out of the mesh. */
  release(cgroup: string): void {
    this.#cgroups.delete(cgroupId(cgroup));
    this.#notifier.changed();
  }

  /** A new SVID with a new key. */
  async renew(identity: string): Promise<void> {
    const svid = await certifiedKey(
      identity,
      3600,
      async ({ csr, ttlSeconds }) => (await this.#authority.issue(csr, { identity, ttlSeconds })).certificateChain,
    );
    this.#svids.set(identity, svid);
    this.#notifier.changed();
  }

  changed(): void {
    this.#notifier.changed();
  }

  current(identity: string): SvidMaterial | null {
    return this.#svids.get(identity) ?? null;
  }

  async wait(identity: string): Promise<SvidMaterial> {
    const svid = this.current(identity);
    if (svid === null) throw new Error('there is none');
    return svid;
  }

  bundle(): SpiffeBundle | null {
    return this.own;
  }

  federatedBundles(): readonly SpiffeBundle[] {
    return this.federated;
  }

  async jwtSvid(identity: string, audience: readonly string[]): Promise<JwtSvid> {
    this.signed++;
    const issuedAt = Math.floor(Date.now() / 1000) * 1000;
    const expiresAt = issuedAt + 300_000;
    const encode = (part: object): string => Buffer.from(JSON.stringify(part)).toString('base64url');
    const claims = { sub: identity, aud: audience, iat: issuedAt / 1000, exp: expiresAt / 1000, jti: randomUUID() };
    const signed = `${encode({ alg: 'ES256', kid: 'first' })}.${encode(claims)}`;
    const signature = sign('sha256', Buffer.from(signed), { key: this.#jwtKey, dsaEncoding: 'ieee-p1363' }).toString('base64url');
    return { identity, token: `${signed}.${signature}`, issuedAt, expiresAt };
  }

  onChange(listener: () => void): () => void {
    return this.#notifier.subscribe(listener);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#api?.[Symbol.asyncDispose]();
    await this.#authority[Symbol.asyncDispose]();
    for (const path of this.#paths) removeCgroupTree(path);
    rmSync(this.directory, { recursive: true, force: true });
  }
}
