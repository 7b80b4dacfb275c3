import { randomBytes } from 'node:crypto';
import { CertsError } from '../errors.ts';
import type { TrustState } from '../bundle/trust-state.ts';
import { publicKeyDigest } from '../x509/public-key.ts';
import type { CertificateAuthority } from './certificate-authority.ts';
import type { JwtSigner } from './jwt-signer.ts';

/**
 * Where one slot of the authority stands. `prepared`: in the bundle, signs nothing yet. `active`: signs. `old`: signs nothing any more, stays in
 * the bundle for the SVIDs it has signed. Allowed moves: prepared -> active; active -> old; prepared or old -> gone, which is final.
 */
export type SlotState = 'prepared' | 'active' | 'old';

/** One generation of keys: an X.509 authority and a JWT signing key, which live and go together. */
export interface Slot {
  readonly id: string;
  readonly state: SlotState;
  /** Its SVIDs are to be replaced now, though they still verify. */
  readonly tainted: boolean;
  /** `created` here, or `imported` by the operator. */
  readonly origin: 'created' | 'imported';
  /** Milliseconds since the epoch. */
  readonly preparedAt: number;
  /** No SVID that it has signed or may be signing is valid for longer. 0: none. Saved before such an SVID is handed out. */
  readonly issuedUntil: number;
  readonly x509: CertificateAuthority;
  readonly jwt: JwtSigner;
  /** As the state file has them: PEM, the keys perhaps encrypted. */
  readonly stored: StoredKeys;
}

/** A slot's keys and certificates as text. */
export interface StoredKeys {
  /** PEM: signing certificate, intermediates, root. */
  readonly certificates: string;
  /** PEM, PKCS#8. */
  readonly key: string;
  readonly jwtKey: string;
}

/** A key that signs nothing any more. Listed until no certificate of it could be valid. */
export interface RevokedKey {
  /** Lower-case hexadecimal SHA-256 of its SubjectPublicKeyInfo. */
  readonly key: string;
  /** Milliseconds since the epoch. */
  readonly until: number;
}

/**
 * A rotation under way. `publishing`: the new slot is in the bundle, nodes are waited for. `retiring`: the new slot is active, the SVIDs of the
 * old ones are waited for. It ends when no old slot is left.
 */
export interface Rotation {
  readonly phase: 'publishing' | 'retiring';
  /** The new slot. */
  readonly slot: string;
  /** The sequence of the first bundle that has the new slot: what nodes must acknowledge. */
  readonly sequence: bigint;
  /** When the phase began, in milliseconds since the epoch. */
  readonly since: number;
  /** It is not activated before this, in milliseconds since the epoch. */
  readonly activateAt: number;
  /** Activated then even without every acknowledgement, because the active authority is about to expire; null: never. */
  readonly activateAnyway: number | null;
}

/** Everything that the authority of a trust domain remembers. Immutable: each change makes a new one, by a function of this file. */
export interface AuthorityState {
  readonly trustDomain: string;
  /** Of the trust state that is made of the rest. */
  readonly sequence: bigint;
  /** Invariant: exactly one is active. */
  readonly slots: readonly Slot[];
  readonly revoked: readonly RevokedKey[];
  readonly rotation: Rotation | null;
}

/** More slots than a rotation with an interrupted one before it needs. Each is a root that every handshake may have to try. */
export const MAX_SLOTS = 8;
const MOVES: Readonly<Record<SlotState, readonly (SlotState | 'gone')[]>> = {
  prepared: ['active', 'gone'],
  active: ['old'],
  old: ['gone'],
};

/** A name for a new slot: short enough to type. */
export function newSlotId(): string {
  return randomBytes(6).toString('hex');
}

/** The digest of a slot's signing key. */
export function signingKeyId(slot: Slot): string {
  return publicKeyDigest(slot.x509.material.signingKey.publicKey);
}

export function activeSlot(state: AuthorityState): Slot {
  const active = state.slots.filter((slot) => slot.state === 'active');
  // A state with none or two cannot be made by the functions of this file, nor be loaded.
  if (active.length !== 1) throw new Error(`the authority has ${active.length} active slots`);
  return active[0] as Slot;
}

/** @throws CertsError WEFT_CERTS_SLOT when there is none of that id */
export function findSlot(state: AuthorityState, id: string): Slot {
  const slot = state.slots.find((one) => one.id === id);
  if (slot !== undefined) return slot;
  throw slotError(`there is no authority ${JSON.stringify(id.slice(0, 40))}`, 'take an id from `weft ca status`');
}

/** The only place where a slot changes its state. */
function move(state: AuthorityState, id: string, to: SlotState | 'gone'): AuthorityState {
  const slot = findSlot(state, id);
  if (!MOVES[slot.state].includes(to))
    throw slotError(`the authority ${id} is ${slot.state} and cannot become ${to}`, 'see `weft ca status`');
  // The order stays: it is that of the roots in the bundle, which did not change.
  if (to === 'gone') return { ...state, slots: state.slots.filter((one) => one !== slot) };
  return { ...state, slots: state.slots.map((one) => (one === slot ? { ...one, state: to } : one)) };
}

/** With a new prepared slot. The same when it is there already. */
export function prepare(state: AuthorityState, slot: Slot): AuthorityState {
  if (state.slots.some((one) => one.id === slot.id)) return state;
  if (state.slots.some((one) => one.state === 'prepared')) {
    throw slotError('an authority is prepared already', 'activate it, or taint and revoke it first');
  }
  if (state.slots.some((one) => signingKeyId(one) === signingKeyId(slot)) || state.revoked.some((one) => one.key === signingKeyId(slot))) {
    throw slotError('an authority with this key is known already, or was revoked', 'use a new key');
  }
  if (state.slots.length >= MAX_SLOTS)
    throw slotError(`there are ${MAX_SLOTS} authorities`, 'wait until old ones are pruned, or revoke them');
  return { ...state, slots: [...state.slots, slot] };
}

/** The prepared slot becomes active, the active one old: both at once, so that exactly one is active. The same when it is active already. */
export function activate(state: AuthorityState, id: string, now: number): AuthorityState {
  const slot = findSlot(state, id);
  if (slot.state === 'active') return state;
  if (slot.tainted) throw slotError(`the authority ${id} is tainted`, 'prepare another one');
  const retired = move(state, activeSlot(state).id, 'old');
  const rotation: Rotation = {
    phase: 'retiring',
    slot: id,
    sequence: state.sequence,
    since: now,
    activateAt: now,
    activateAnyway: null,
  };
  return { ...move(retired, id, 'active'), rotation };
}

/** Its SVIDs are to be replaced. A tainted slot can never become active, so a rotation to it ends. */
export function taint(state: AuthorityState, id: string): AuthorityState {
  const slot = findSlot(state, id);
  if (slot.state === 'active') throw slotError(`the authority ${id} is active`, 'activate another first');
  return { ...withoutRotationTo(state, id), slots: state.slots.map((one) => (one === slot ? { ...one, tainted: true } : one)) };
}

/** Out of the bundle at once, its keys forgotten, and its key listed as revoked. Must be tainted before, so that its SVIDs were replaced. */
export function revoke(state: AuthorityState, id: string): AuthorityState {
  const slot = findSlot(state, id);
  if (slot.state === 'active') throw slotError(`the authority ${id} is active`, 'activate another first');
  if (!slot.tainted)
    throw slotError(`the authority ${id} is not tainted`, 'taint it first, so that workloads get other SVIDs before theirs stop working');
  const revoked = [...state.revoked, { key: signingKeyId(slot), until: slot.x509.notAfter }];
  return { ...move(withoutRotationTo(state, id), id, 'gone'), revoked };
}

/** Without the old slots whose last SVID expired `delayMs` ago, and without revoked keys whose certificates have expired. */
export function prune(state: AuthorityState, now: number, delayMs: number): AuthorityState {
  let next = state;
  for (const slot of state.slots) {
    if (slot.state === 'old' && now > slot.issuedUntil + delayMs) next = move(next, slot.id, 'gone');
  }
  const revoked = next.revoked.filter((one) => now <= one.until);
  if (revoked.length !== next.revoked.length) next = { ...next, revoked };
  const over = next.rotation?.phase === 'retiring' && !next.slots.some((slot) => slot.state === 'old');
  return over ? { ...next, rotation: null } : next;
}

/** Notes that a slot may be signing SVIDs that are valid until then. Null when it is not the active one any more. */
export function reserve(state: AuthorityState, id: string, until: number): AuthorityState | null {
  const slot = state.slots.find((one) => one.id === id);
  if (slot?.state !== 'active') return null;
  if (slot.issuedUntil >= until) return state;
  return { ...state, slots: state.slots.map((one) => (one === slot ? { ...one, issuedUntil: until } : one)) };
}

/**
 * The sequence after a change: more than before, and at least the seconds since the epoch. So a state that was put back from a backup gets
 * past every sequence that was published in the meantime, as long as there was less than one change per second.
 */
export function nextSequence(previous: bigint, now: number): bigint {
  const seconds = BigInt(Math.floor(now / 1000));
  return seconds > previous ? seconds : previous + 1n;
}

/** What nodes must know of the trust domain. */
export function trustOf(state: AuthorityState, refreshHintSeconds: number | null): TrustState {
  // Slots may share a root, and each root is in the bundle once.
  const roots = new Map(state.slots.map(({ x509 }) => [Buffer.from(x509.material.root).toString('base64'), x509.material.root]));
  return {
    sequence: state.sequence,
    bundle: {
      trustDomain: state.trustDomain,
      x509Authorities: [...roots.values()],
      jwtAuthorities: state.slots.map(({ jwt }) => jwt.authority),
      sequence: state.sequence,
      refreshHintSeconds,
    },
    taintedKeys: state.slots.filter((slot) => slot.tainted).map(signingKeyId),
    revokedKeys: state.revoked.map((one) => one.key),
  };
}

/** Whether two states look the same to nodes. */
export function sameTrust(a: AuthorityState, b: AuthorityState): boolean {
  const content = (state: AuthorityState): string =>
    JSON.stringify([state.slots.map(({ id, tainted }) => [id, tainted]).toSorted(), state.revoked.map((one) => one.key)]);
  return content(a) === content(b);
}

function withoutRotationTo(state: AuthorityState, id: string): AuthorityState {
  return state.rotation?.phase === 'publishing' && state.rotation.slot === id ? { ...state, rotation: null } : state;
}

function slotError(message: string, nextStep: string): CertsError {
  return new CertsError('WEFT_CERTS_SLOT', message, { nextStep });
}
