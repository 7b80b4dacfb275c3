import { generateKeyPair } from 'node:crypto';
import { type FSWatcher, watch } from 'node:fs';
import { unlink } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { errorText } from '../../src/model/errors.ts';
import { checkTrustDomain } from '../../src/model/identity.ts';
import type { TrustState } from '../bundle/trust-state.ts';
import { ChangeNotifier } from '../change-notifier.ts';
import { type Clock, systemClock } from '../clock.ts';
import { CertsError } from '../errors.ts';
import type { JwtSvid } from '../identity-provider.ts';
import { createKeyStore } from '../keystore/pkcs12.ts';
import { readPrivateFile } from '../private-file.ts';
import { certificatesFromPem } from '../x509/pem.ts';
import { type KeyProtection, privateKeyPem, readSigners, readState, storeKeys, writeState } from './authority-file.ts';
import {
  type AuthorityMaterial,
  authorityExpired,
  checkMaterial,
  checkValidNow,
  createMaterial,
  materialFromPem,
  type PemMaterial,
  readPrivateKey,
} from './authority-material.ts';
import {
  activate,
  activeSlot,
  type AuthorityState,
  findSlot,
  newSlotId,
  nextSequence,
  prepare,
  prune,
  reserve,
  revoke,
  type Rotation,
  sameTrust,
  signingKeyId,
  type Slot,
  type SlotState,
  taint,
  trustOf,
} from './authority-state.ts';
import { AuthorityDirectory, AuthorityMemory, type AuthorityStore } from './authority-store.ts';
import { type IssuedSvid, type IssueRequest, MAX_SVID_TTL_SECONDS } from './certificate-authority.ts';
import type { IssueJwtRequest } from './jwt-signer.ts';
import { JoinTokens, type TokenGrant } from './join-tokens.ts';
import { checkNodeName, type NodeRecord, NodeRecords } from './node-records.ts';
import {
  activateAnywayAt,
  activateAt,
  type AwaitedNode,
  awaitedNodes,
  needsSuccessor,
  nextStep,
  prepareAt,
  type RotationTimes,
} from './rotation.ts';

interface CommonOptions {
  readonly trustDomain: string;
  /** The node of this process. Its record stays live until this authority is disposed of. */
  readonly nodeName: string;
  /** Default: the machine's. */
  readonly clock?: Clock;
  /** `spiffe_refresh_hint` of the bundle. Default: none, which consumers take for 5 minutes. */
  readonly refreshHintSeconds?: number;
}

export interface OpenOptions extends CommonOptions {
  /** Holds the state; several processes may share it. Mode 0700, made at the first start. */
  readonly directory: string;
  /** Called when keys are to be encrypted or decrypted. Default: keys are stored as they are, in files of mode 0600. */
  readonly passphrase?: (() => Promise<string>) | null;
  /** Life of roots that are created, in seconds. Default: ten years. */
  readonly rootTtlSeconds?: number;
  /**
   * For how long a prepared authority is published before it signs, in seconds. Default 1. Nodes of the trust domain acknowledge what they have; who
   * reads the bundle elsewhere (federation) does not, and needs some multiple of the refresh hint: SPIFFE_Federation.md recommends 3 to 5.
   */
  readonly publishSeconds?: number;
  /** For how long an old authority stays in the bundle after its last SVID has expired, in seconds. Default 10. */
  readonly pruneDelaySeconds?: number;
  /** For how long a node that says nothing counts as live, in seconds, when it does not say until when its SVIDs are valid. Default 600. */
  readonly nodeLeaseSeconds?: number;
}

export interface GivenOptions extends CommonOptions, PemMaterial {}

/** One generation of the authority's keys, for status. */
export interface SlotStatus {
  readonly id: string;
  readonly state: SlotState;
  readonly tainted: boolean;
  readonly origin: 'created' | 'imported';
  /** Milliseconds since the epoch. */
  readonly preparedAt: number;
  readonly notAfter: number;
  /** Lower-case hexadecimal SHA-256 of the signing key's SubjectPublicKeyInfo: as in `taintedKeys` and `revokedKeys`. */
  readonly signingKey: string;
  /** `kid` of its JWT signing key. */
  readonly jwtKeyId: string;
  /** No SVID of it is valid beyond this; null: it has signed none. Milliseconds since the epoch. */
  readonly issuedUntil: number | null;
}

export interface AuthorityStatus {
  readonly trustDomain: string;
  /** A directory, or `memory`. */
  readonly from: string;
  readonly sequence: bigint;
  readonly slots: readonly SlotStatus[];
  readonly revokedKeys: readonly string[];
  /** Null: none is under way. */
  readonly rotation: {
    readonly phase: Rotation['phase'];
    readonly slot: string;
    /** Milliseconds since the epoch. */
    readonly since: number;
    readonly waitingFor: readonly AwaitedNode[];
  } | null;
  readonly nodes: readonly NodeRecord[];
  /** How many SVIDs this process has signed. */
  readonly issued: { readonly x509: number; readonly jwt: number };
  /** What an operator should look at; empty when all is well. */
  readonly warnings: readonly string[];
}

/** A node of the trust domain has been heard of. */
export interface NodeNews {
  readonly name: string;
  /** The sequence of the trust state that all of its threads verify with; null: none yet. */
  readonly acknowledged: bigint | null;
  /** It counts as live until then, in milliseconds since the epoch. Default: a lease of ten minutes. */
  readonly svidExpiresAt?: number;
}

const DEFAULT_ROOT_TTL_SECONDS = 10 * 365 * 24 * 3600;
const DEFAULT_PUBLISH_SECONDS = 1;
const DEFAULT_PRUNE_DELAY_SECONDS = 10;
const DEFAULT_NODE_LEASE_SECONDS = 600;
/** The file is looked at this often even when the kernel announces nothing: network file systems do not. */
const POLL_MS = 5000;
/** While nodes are waited for: their acknowledgements may come through another process. */
const ROTATION_POLL_MS = 500;
/** An authority's file that is younger than what it says by more than this was put back from elsewhere. */
const RESTORED_MS = 60_000;
const SAVE_ATTEMPTS = 50;
/** Share of an SVID's life that is reserved beyond it, so that not every SVID has to save the state first. */
const RESERVE_SHARE = 0.25;
const LONGEST_RESERVE_MS = 3600_000;
/** The one file of earlier versions: key and certificate. */
const EARLIER_FILE = 'ca.pem';
const generate = promisify(generateKeyPair);

/**
 * The authority of a trust domain: what signs its SVIDs, what they are verified with, and how both are replaced. Lives in one process or in
 * several that share a directory; then each sees what the others did, and all sign with the same active keys.
 *
 * Invariants. Exactly one slot is active. Nothing signs that is not in the bundle. No SVID is handed out before the saved state says that its
 * slot must stay for as long. Every change of what nodes must know makes the sequence grow.
 */
export class Authority implements AsyncDisposable {
  readonly trustDomain: string;
  /** One-time tokens for nodes that join. */
  readonly tokens: JoinTokens;
  readonly #from: string;
  readonly #nodeName: string;
  readonly #store: AuthorityStore;
  readonly #protection: KeyProtection;
  readonly #clock: Clock;
  readonly #refreshHintSeconds: number | null;
  readonly #rootTtlSeconds: number;
  readonly #times: RotationTimes;
  readonly #nodeLeaseMs: number;
  readonly #rotates: boolean;
  readonly #nodes: NodeRecords;
  readonly #notifier = new ChangeNotifier();
  readonly #watcher: FSWatcher | null;
  #state: AuthorityState;
  #number: number;
  /** Changes and reloads happen one after another. */
  #queue: Promise<unknown> = Promise.resolve();
  #cancelTimer: (() => void) | null = null;
  #problem: string | null = null;
  readonly #issued = { x509: 0, jwt: 0 };
  #ownNode: NodeNews | null = null;
  #ticking = false;
  #disposed = false;

  private constructor(parts: {
    readonly options: CommonOptions & Omit<Partial<OpenOptions>, 'passphrase'>;
    readonly from: string;
    readonly store: AuthorityStore;
    readonly protection: KeyProtection;
    readonly state: AuthorityState;
    readonly number: number;
  }) {
    const { options } = parts;
    const directory = options.directory ?? null;
    this.trustDomain = options.trustDomain;
    this.#from = parts.from;
    this.#nodeName = checkNodeName(options.nodeName);
    this.#store = parts.store;
    this.#protection = parts.protection;
    this.#state = parts.state;
    this.#number = parts.number;
    this.#clock = options.clock ?? systemClock;
    this.#refreshHintSeconds = options.refreshHintSeconds ?? null;
    this.#rootTtlSeconds = options.rootTtlSeconds ?? DEFAULT_ROOT_TTL_SECONDS;
    this.#times = {
      publishMs: (options.publishSeconds ?? DEFAULT_PUBLISH_SECONDS) * 1000,
      pruneDelayMs: (options.pruneDelaySeconds ?? DEFAULT_PRUNE_DELAY_SECONDS) * 1000,
    };
    this.#nodeLeaseMs = (options.nodeLeaseSeconds ?? DEFAULT_NODE_LEASE_SECONDS) * 1000;
    this.#rotates = directory !== null;
    this.#nodes = new NodeRecords(directory === null ? null : join(directory, 'nodes'));
    this.tokens = new JoinTokens({
      directory: directory === null ? null : join(directory, 'tokens'),
      now: () => this.#now(),
      roots: () => this.trust().bundle.x509Authorities,
      onRedeem: ({ node }) => this.#nodes.makeRoom(node, this.#now()),
      onRedeemed: (grant) => this.#joined(grant),
    });
    this.#watcher = directory === null ? null : watchQuietly(directory, () => this.#wake());
    this.#schedule(0);
  }

  /**
   * Opens the authority of a directory, or makes it at the first start. Several processes that start at once on one directory end with one
   * authority. A `ca.pem` of earlier versions becomes the first active slot.
   * @throws CertsError WEFT_CERTS_STATE_FILE, WEFT_CERTS_KEY_FILE, WEFT_CERTS_DIRECTORY, WEFT_CERTS_CA_INVALID, WEFT_CERTS_CA_EXPIRED,
   *   WEFT_CERTS_CA_TRUST_DOMAIN, WEFT_CERTS_PASSPHRASE, WEFT_CERTS_NODE_NAME
   * @throws IdentityError WEFT_IDENTITY_INVALID for a bad trust domain
   */
  static async open(options: OpenOptions): Promise<Authority> {
    const { directory, trustDomain } = options;
    checkTrustDomain(trustDomain);
    checkNodeName(options.nodeName);
    const clock = options.clock ?? systemClock;
    const now = (): number => Math.floor(clock.now());
    const protection: KeyProtection = { passphrase: (await options.passphrase?.()) ?? null };
    if (protection.passphrase === '') {
      throw new CertsError('WEFT_CERTS_PASSPHRASE', 'the passphrase is empty', { nextStep: 'give one, or none at all' });
    }
    const store = new AuthorityDirectory(directory);
    let saved = await store.load();
    if (saved === null) {
      const earlier = await readPrivateFile(join(directory, EARLIER_FILE));
      const material =
        earlier === null
          ? await createMaterial(trustDomain, options.rootTtlSeconds ?? DEFAULT_ROOT_TTL_SECONDS, now())
          : earlierMaterial(earlier);
      checkValidNow(checkMaterial(material, trustDomain), now());
      const slot = await newSlot(material, 'created', 'active', trustDomain, protection, now);
      // What an earlier version signed with this key is unknown: an SVID of the longest life may be out.
      const issuedUntil = earlier === null ? 0 : Math.min(slot.x509.notAfter, now() + MAX_SVID_TTL_SECONDS * 1000);
      const first: AuthorityState = {
        trustDomain,
        sequence: nextSequence(0n, now()),
        slots: [{ ...slot, issuedUntil }],
        revoked: [],
        rotation: null,
      };
      const isOurs = await store.replace(0, writeState(first, now()));
      // A second copy of the key would outlive its rotation, and its encryption.
      if (isOurs && earlier !== null) await unlink(join(directory, EARLIER_FILE));
      // Read back even what we wrote: another process may have been first, and this way there is one path to test.
      saved = await store.load();
      if (saved === null) throw new CertsError('WEFT_CERTS_DIRECTORY', `the state vanished from ${directory} while it was made`);
    }
    const { state, savedAt } = readState(saved.text, saved.path, trustDomain, protection, [], now);
    const active = activeSlot(state);
    if (state.slots.length === 1) checkValidNow(active.x509.material, now());
    const authority = new Authority({ options, from: directory, store, protection, state, number: saved.number });
    try {
      await authority.#nodes.refresh();
      // Nodes may know a later state than the one that was put back: get past it, so that they take this one.
      if (saved.placedAt > savedAt + RESTORED_MS)
        await authority.#update((old) => ({ ...old, sequence: nextSequence(old.sequence, now()) }));
      await authority.#tick();
      return authority;
    } catch (error) {
      await authority[Symbol.asyncDispose]();
      throw error;
    }
  }

  /**
   * An authority that the operator has made and replaces: fixed, in memory. Its JWT signing key lives as long as the process.
   * @throws CertsError WEFT_CERTS_CA_INVALID, WEFT_CERTS_CA_EXPIRED, WEFT_CERTS_CA_TRUST_DOMAIN, WEFT_CERTS_PASSPHRASE
   */
  static async given(options: GivenOptions): Promise<Authority> {
    const clock = options.clock ?? systemClock;
    const now = (): number => Math.floor(clock.now());
    const material = materialFromPem(options);
    checkValidNow(checkMaterial(material, options.trustDomain), now());
    const protection: KeyProtection = { passphrase: null };
    const slot = await newSlot(material, 'imported', 'active', options.trustDomain, protection, now);
    const state: AuthorityState = {
      trustDomain: options.trustDomain,
      sequence: nextSequence(0n, now()),
      slots: [slot],
      revoked: [],
      rotation: null,
    };
    const store = new AuthorityMemory();
    await store.replace(0, writeState(state, now()));
    const { passphrase: _, ...common } = options;
    return new Authority({ options: common, from: 'memory', store, protection, state, number: 1 });
  }

  /**
   * Issues an X.509-SVID for the key of a PKCS#10 request (DER), with the active slot. The request must be signed by that key; everything else
   * in it is ignored.
   * @throws CertsError WEFT_CERTS_CSR, WEFT_CERTS_WEAK_KEY, WEFT_CERTS_IDENTITY_REFUSED, WEFT_CERTS_TTL, WEFT_CERTS_DNS_NAME, WEFT_CERTS_CA_EXPIRED
   * @throws IdentityError WEFT_IDENTITY_INVALID
   */
  async issue(csr: Uint8Array, request: IssueRequest): Promise<IssuedSvid> {
    for (;;) {
      const slot = activeSlot(this.#state);
      const svid = await slot.x509.issue(csr, request);
      if (!(await this.#reserve(slot, svid.notAfter))) continue;
      this.#issued.x509++;
      return svid;
    }
  }

  /**
   * Issues a JWT-SVID (ES256), with the active slot.
   * @throws CertsError WEFT_CERTS_IDENTITY_REFUSED, WEFT_CERTS_TTL, WEFT_CERTS_AUDIENCE, WEFT_CERTS_CA_EXPIRED
   * @throws IdentityError WEFT_IDENTITY_INVALID
   */
  async issueJwt(request: IssueJwtRequest): Promise<JwtSvid> {
    for (;;) {
      const slot = activeSlot(this.#state);
      const now = this.#now();
      const expiresAt = slot.jwt.expiry(request, now, slot.x509.notAfter);
      if (expiresAt <= now) throw authorityExpired(slot.x509.notAfter);
      if (!(await this.#reserve(slot, expiresAt))) continue;
      const svid = await slot.jwt.issue(request, now, expiresAt);
      this.#issued.jwt++;
      return svid;
    }
  }

  /** The id of the slot that signs now. */
  get signer(): string {
    return activeSlot(this.#state).id;
  }

  /** That of the trust state. */
  get sequence(): bigint {
    return this.#state.sequence;
  }

  trust(): TrustState {
    return trustOf(this.#state, this.#refreshHintSeconds);
  }

  /** Calls back after the trust state changed, or which keys sign. Returns the unsubscribe function. */
  onChange(listener: () => void): () => void {
    return this.#notifier.subscribe(listener);
  }

  status(): AuthorityStatus {
    const { rotation, slots, revoked, sequence } = this.#state;
    const now = this.#now();
    return {
      trustDomain: this.trustDomain,
      from: this.#from,
      sequence,
      slots: slots.map(slotStatus),
      revokedKeys: revoked.map((one) => one.key),
      rotation:
        rotation === null
          ? null
          : {
              phase: rotation.phase,
              slot: rotation.slot,
              since: rotation.since,
              waitingFor: rotation.phase === 'publishing' ? awaitedNodes(this.#nodes.all(), rotation.sequence, sequence, now) : [],
            },
      nodes: this.#nodes.all(),
      issued: { ...this.#issued },
      warnings: this.#warnings(now),
    };
  }

  /**
   * Adds a successor to the bundle, which signs nothing yet: a new root, or the given material.
   * @throws CertsError WEFT_CERTS_SLOT when one is prepared already, WEFT_CERTS_CA_* when the material cannot be used, WEFT_CERTS_FIXED
   */
  async prepare(material?: AuthorityMaterial): Promise<SlotStatus> {
    const slot = await this.#newSlot(material);
    await this.#update((state) => prepare(state, slot));
    return slotStatus(slot);
  }

  /**
   * Lets a prepared slot sign, and retires the one that did.
   * @throws CertsError WEFT_CERTS_SLOT, WEFT_CERTS_FIXED; WEFT_CERTS_NOT_ACKNOWLEDGED while live nodes would refuse its SVIDs, unless forced
   */
  async activate(id: string, options: { readonly force?: boolean } = {}): Promise<void> {
    await this.#nodes.refresh();
    await this.#update((state) => {
      const slot = findSlot(state, id);
      // Prepared alone, without a rotation: everything up to now must be acknowledged.
      const needed = state.rotation?.slot === id ? state.rotation.sequence : state.sequence;
      const missing =
        slot.state === 'active' || options.force === true ? [] : awaitedNodes(this.#nodes.all(), needed, state.sequence, this.#now());
      if (missing.length > 0) throw notAcknowledged(missing);
      return activate(state, id, this.#now());
    });
  }

  /**
   * Says that the SVIDs of a prepared or old slot are to be replaced now. They still verify.
   * @throws CertsError WEFT_CERTS_SLOT, WEFT_CERTS_FIXED
   */
  async taint(id: string): Promise<void> {
    await this.#update((state) => taint(state, id));
  }

  /**
   * Takes a tainted slot out of the bundle at once, forgets its keys, and lists its signing key as revoked.
   * @throws CertsError WEFT_CERTS_SLOT, WEFT_CERTS_FIXED
   */
  async revoke(id: string): Promise<void> {
    await this.#update((state) => revoke(state, id));
  }

  /** Removes old slots whose last SVID has expired. Happens by itself; this is for the impatient. */
  async prune(): Promise<void> {
    await this.#update((state) => prune(state, this.#now(), this.#times.pruneDelayMs));
  }

  /**
   * Replaces the active slot: prepares a successor (or takes the prepared one), waits until every live node has acknowledged it, activates it,
   * waits until the last SVID of the old one has expired, and prunes that. Returns when it has begun; it goes on by itself, after a restart too,
   * in whichever process has the directory open.
   * @throws CertsError WEFT_CERTS_SLOT when a rotation is under way, WEFT_CERTS_CA_* when the material cannot be used, WEFT_CERTS_FIXED
   */
  async rotate(options: { readonly material?: AuthorityMaterial } = {}): Promise<void> {
    const slot = await this.#newSlot(options.material);
    await this.#update((state) => {
      if (state.rotation?.phase === 'publishing') {
        if (state.rotation.slot === slot.id) return state;
        throw new CertsError('WEFT_CERTS_SLOT', 'a rotation is under way already', { nextStep: 'wait for it: `weft ca status`' });
      }
      return this.#startRotation(state, slot, options.material !== undefined, null);
    });
  }

  /**
   * A node was heard of: it counts as live for a while, and rotations wait for its acknowledgements.
   * @throws CertsError WEFT_CERTS_NODE_NAME, WEFT_CERTS_TOO_MANY
   */
  nodeSeen(node: NodeNews): void {
    const now = this.#now();
    const old = this.#nodes.get(node.name);
    const liveUntil = Math.max(node.svidExpiresAt ?? 0, now + this.#nodeLeaseMs);
    if (node.name === this.#nodeName) this.#ownNode = node;
    // Written only when it says something new, or when the old record is half used up.
    const stale =
      old === null ||
      old.acknowledged !== node.acknowledged ||
      old.liveUntil < now + this.#nodeLeaseMs / 2 ||
      old.liveUntil < (node.svidExpiresAt ?? 0);
    if (!stale) return;
    this.#nodes.set({ name: node.name, acknowledged: node.acknowledged, liveUntil }, now);
    this.#wake();
  }

  /** Rotations do not wait for this node any more, unless it is heard of again. */
  nodeGone(name: string): void {
    if (this.#nodes.get(name) === null) return;
    this.#nodes.delete(name);
    this.#wake();
  }

  /**
   * A slot's certificates, PEM: signing certificate, intermediates, root.
   * @throws CertsError WEFT_CERTS_SLOT
   */
  chain(id: string): string {
    return findSlot(this.#state, id).stored.certificates;
  }

  /**
   * A slot's signing key for a backup, encrypted: PKCS#8 PEM.
   * @throws CertsError WEFT_CERTS_SLOT, WEFT_CERTS_PASSPHRASE for an empty passphrase
   */
  async exportKey(id: string, passphrase: string): Promise<string> {
    if (passphrase === '') throw new CertsError('WEFT_CERTS_PASSPHRASE', 'the passphrase is empty', { nextStep: 'give one' });
    return privateKeyPem(readPrivateKey(findSlot(this.#state, id).stored.key, this.#protection.passphrase ?? undefined), passphrase);
  }

  /**
   * A slot's signing key and chain for a backup: PKCS#12, under the name `weft`.
   * @throws CertsError WEFT_CERTS_SLOT, WEFT_CERTS_KEY_STORE for an empty password
   */
  exportKeyStore(id: string, password: string): Promise<Uint8Array> {
    const { stored } = findSlot(this.#state, id);
    const privateKey = readPrivateKey(stored.key, this.#protection.passphrase ?? undefined).export({ type: 'pkcs8', format: 'der' });
    return createKeyStore({ privateKey, certificates: certificatesFromPem(stored.certificates), password, friendlyName: 'weft' });
  }

  /** Stops timers and watching. The record of this process's own node ends: who starts again reads the state anew. */
  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#disposed) return;
    this.#disposed = true;
    this.#watcher?.close();
    this.#cancelTimer?.();
    this.#cancelTimer = null;
    this.#notifier[Symbol.dispose]();
    await this.#queue.catch(() => undefined);
    if (this.#ownNode !== null) this.#nodes.delete(this.#nodeName);
    await this.#nodes.settled();
  }

  /** A node that joins is live from now on, so that a rotation that begins before its first acknowledgement waits for it. */
  #joined({ node }: TokenGrant): void {
    const now = this.#now();
    this.#nodes.set({ name: node, acknowledged: null, liveUntil: now + this.#nodeLeaseMs }, now);
  }

  async #newSlot(material: AuthorityMaterial | undefined): Promise<Slot> {
    if (!this.#rotates) {
      throw new CertsError('WEFT_CERTS_FIXED', 'the certificate authority was given by the operator and is not replaced by Weft', {
        nextStep: 'restart with another --ca-cert and --ca-key, or use --ca-dir and `weft ca import`',
      });
    }
    const now = (): number => this.#now();
    const made = material ?? (await createMaterial(this.trustDomain, this.#rootTtlSeconds, now()));
    checkValidNow(checkMaterial(made, this.trustDomain), now());
    return newSlot(made, material === undefined ? 'created' : 'imported', 'prepared', this.trustDomain, this.#protection, now);
  }

  /** A prepared slot that is there is taken, unless the operator brings another. */
  #startRotation(state: AuthorityState, slot: Slot, isGiven: boolean, automatic: Slot | null): AuthorityState {
    const ready = isGiven ? undefined : state.slots.find((one) => one.state === 'prepared' && !one.tainted);
    const next = ready === undefined ? prepare(state, slot) : state;
    const now = this.#now();
    const rotation: Rotation = {
      phase: 'publishing',
      slot: (ready ?? slot).id,
      // A slot that was prepared before is in the present bundle, a new one in the next.
      sequence: ready === undefined ? nextSequence(state.sequence, now) : state.sequence,
      since: now,
      activateAt: automatic === null ? now : Math.floor(activateAt(automatic)),
      activateAnyway: automatic === null ? null : Math.floor(activateAnywayAt(automatic)),
    };
    return { ...next, rotation };
  }

  /** Makes sure that a slot stays in the bundle until then. False when it is not active any more: then another must sign. */
  async #reserve(slot: Slot, until: number): Promise<boolean> {
    const current = this.#state.slots.find((one) => one.id === slot.id);
    if (current?.state === 'active' && current.issuedUntil >= until) return true;
    const spare = Math.min((until - this.#now()) * RESERVE_SHARE, LONGEST_RESERVE_MS);
    const reserved = Math.min(Math.ceil(until + Math.max(0, spare)), slot.x509.notAfter);
    let active = false;
    await this.#update((state) => {
      const known = state.slots.find((one) => one.id === slot.id);
      active = known?.state === 'active';
      // Somebody before us in the queue may have reserved enough.
      if (!active || (known?.issuedUntil ?? 0) >= until) return state;
      return reserve(state, slot.id, reserved) ?? state;
    });
    return active;
  }

  /**
   * Changes the state: the only place that saves. `change` may be called several times, each time with the newest state, and must leave a state
   * alone in which it has happened already.
   */
  #update(change: (state: AuthorityState) => AuthorityState): Promise<void> {
    return this.#exclusively(async () => {
      for (let attempt = 0; attempt < SAVE_ATTEMPTS; attempt++) {
        const old = this.#state;
        let next = change(old);
        if (next === old) return;
        const now = this.#now();
        if (!sameTrust(old, next)) next = { ...next, sequence: nextSequence(old.sequence, now) };
        if (await this.#store.replace(this.#number, writeState(next, now))) {
          this.#number++;
          this.#take(next);
          return;
        }
        await this.#load();
      }
      throw new CertsError('WEFT_CERTS_DIRECTORY', `the state in ${this.#from} is changed by another process all the time`, {
        nextStep: 'find out which process writes there',
      });
    });
  }

  /** Takes up the newest saved state. */
  async #load(): Promise<void> {
    const saved = await this.#store.load();
    if (saved === null) {
      throw new CertsError('WEFT_CERTS_STATE_FILE', `the authority's state is gone from ${this.#from}`, {
        nextStep: 'put back a backup of the directory',
      });
    }
    if (saved.number === this.#number) return;
    const { state } = readState(saved.text, saved.path, this.trustDomain, this.#protection, this.#state.slots, () => this.#now());
    this.#number = saved.number;
    this.#take(state);
  }

  /** Whole milliseconds, as the state file has them. */
  #now(): number {
    return Math.floor(this.#clock.now());
  }

  #exclusively<T>(work: () => Promise<T>): Promise<T> {
    const result = this.#queue.then(work);
    this.#queue = result.catch(() => undefined);
    return result;
  }

  /** Most changes (what was issued, who has heard of it) are nobody's concern: telling every node of each would make work that grows with the square. */
  #take(state: AuthorityState): void {
    const isNews = state.sequence !== this.#state.sequence || activeSlot(state).id !== activeSlot(this.#state).id;
    this.#state = state;
    if (isNews) this.#notifier.changed();
    this.#wake();
  }

  #wake(): void {
    if (!this.#ticking) this.#schedule(0);
  }

  #schedule(ms: number): void {
    this.#cancelTimer?.();
    this.#cancelTimer = this.#disposed ? null : this.#clock.after(ms, () => void this.#tick());
  }

  /** Looks for what others changed, and does what is due. Never throws: a problem is shown in the status, and tried again. */
  async #tick(): Promise<void> {
    if (this.#ticking || this.#disposed) return;
    this.#ticking = true;
    let sleepMs = POLL_MS;
    try {
      if (this.#rotates) sleepMs = Math.min(sleepMs, await this.#advance());
      this.#problem = null;
    } catch (error) {
      this.#problem = errorText(error);
    } finally {
      this.#ticking = false;
      this.#schedule(sleepMs);
    }
  }

  /** Returns after how many ms to look again. */
  async #advance(): Promise<number> {
    await this.#exclusively(() => this.#load());
    if (this.#ownNode !== null) this.nodeSeen(this.#ownNode);
    await this.#nodes.refresh();
    if (needsSuccessor(this.#state, this.#now())) {
      const slot = await this.#newSlot(undefined);
      await this.#update((state) =>
        needsSuccessor(state, this.#now()) ? this.#startRotation(state, slot, false, activeSlot(state)) : state,
      );
    }
    for (;;) {
      const now = this.#now();
      const step = nextStep(this.#state, this.#nodes.all(), now, this.#times);
      if (step.state === null) {
        const wait = step.wakeAt === null ? POLL_MS : Math.max(1, step.wakeAt - now);
        return this.#state.rotation?.phase === 'publishing' ? Math.min(wait, ROTATION_POLL_MS) : wait;
      }
      await this.#update((state) => nextStep(state, this.#nodes.all(), now, this.#times).state ?? state);
    }
  }

  #warnings(now: number): string[] {
    const active = activeSlot(this.#state);
    const warnings: string[] = [];
    if (this.#problem !== null) warnings.push(this.#problem);
    if (now >= active.x509.notAfter) warnings.push(authorityExpired(active.x509.notAfter).describe());
    else if (active.origin === 'imported' && now >= prepareAt(active) && !this.#state.slots.some((slot) => slot.state === 'prepared')) {
      warnings.push(`the imported authority ${active.id} expires at ${new Date(active.x509.notAfter).toISOString()}: import its successor`);
    }
    return warnings;
  }
}

async function newSlot(
  material: AuthorityMaterial,
  origin: Slot['origin'],
  state: SlotState,
  trustDomain: string,
  protection: KeyProtection,
  now: () => number,
): Promise<Slot> {
  const { privateKey: jwtKey } = await generate('ec', { namedCurve: 'prime256v1' });
  const stored = await storeKeys(material, jwtKey, protection);
  return {
    id: newSlotId(),
    state,
    tainted: false,
    origin,
    preparedAt: now(),
    issuedUntil: 0,
    ...readSigners(stored, trustDomain, protection, now),
    stored,
  };
}

/** Key and certificate of one file, as earlier versions kept them. */
function earlierMaterial(content: string): AuthorityMaterial {
  if (!content.includes('PRIVATE KEY-----')) {
    throw new CertsError('WEFT_CERTS_CA_INVALID', `cannot use the certificate authority: ${EARLIER_FILE} has no private key`, {
      nextStep: 'put back a backup of the file, or remove it to start with a new authority',
    });
  }
  return materialFromPem({ certificate: content, key: content });
}

function slotStatus(slot: Slot): SlotStatus {
  const { id, state, tainted, origin, preparedAt, issuedUntil, x509, jwt } = slot;
  return {
    id,
    state,
    tainted,
    origin,
    preparedAt,
    notAfter: x509.notAfter,
    signingKey: signingKeyId(slot),
    jwtKeyId: jwt.authority.keyId,
    issuedUntil: issuedUntil === 0 ? null : issuedUntil,
  };
}

function notAcknowledged(missing: readonly AwaitedNode[]): CertsError {
  const names = missing.slice(0, 5).map((node) => node.name);
  const others = missing.length > names.length ? ` and ${missing.length - names.length} more` : '';
  return new CertsError('WEFT_CERTS_NOT_ACKNOWLEDGED', `nodes do not have the new root yet: ${names.join(', ')}${others}`, {
    nextStep: 'wait for them, or force it: they will refuse new SVIDs until they have it',
  });
}

/** A watch that fails is no failure: there is the poll. */
function watchQuietly(directory: string, callback: () => void): FSWatcher | null {
  try {
    const watcher = watch(directory, { persistent: false }, callback);
    watcher.on('error', () => watcher.close());
    return watcher;
  } catch {
    return null;
  }
}
