import assert from 'node:assert/strict';
import { beforeEach, describe, it } from 'node:test';
import type { SecureContext } from 'node:tls';
import { SessionStore, type SessionStoreLimits } from '../../../proxy/tunnel/session-store.ts';
import type { PeerVerifier } from '../../../src/model/data-plane.ts';
import { parseSpiffeId } from '../../../src/model/identity.ts';

const chain = [Buffer.from('leaf')];
const context = {} as SecureContext;
const session = (name: string, peerChain: readonly Uint8Array[] = chain) => ({ session: Buffer.from(name), peerChain });

describe('the store of sessions', () => {
  let now: number;
  let trusted: boolean;
  const verifier: PeerVerifier = {
    verify(verified) {
      if (!trusted || verified[0] !== chain[0]) throw new Error('trusted no more');
      return parseSpiffeId('spiffe://example.org/ns/a/sa/b');
    },
    complete: (leaf) => [leaf],
  };
  const storeOf = (limits: Partial<SessionStoreLimits> = {}): SessionStore => new SessionStore(verifier, limits, () => now);
  beforeEach(() => {
    now = 1_000_000;
    trusted = true;
  });

  it('gives each session once, the newest first, with the chain that was verified', () => {
    const sessions = storeOf().of('a', context);
    sessions.keep(session('one'));
    sessions.keep(session('two'));
    assert.equal(String(sessions.take()?.session), 'two');
    assert.deepEqual(sessions.take(), session('one'));
    assert.equal(sessions.take(), null);
  });

  it('gives nothing to another kind of tunnel, or under another context', () => {
    const store = storeOf();
    store.of('a', context).keep(session('one'));
    assert.equal(store.of('b', context).take(), null);
    assert.equal(store.of('a', {} as SecureContext).take(), null);
    assert.equal(store.of('a', context).take(), null, 'what is of an old context is gone');
  });

  it('drops sessions whose chain verifies no more', () => {
    const store = storeOf();
    const sessions = store.of('a', context);
    sessions.keep(session('one'));
    sessions.keep(session('two'));
    trusted = false;
    assert.equal(sessions.take(), null);
    assert.equal(store.size, 0);
    trusted = true;
    assert.equal(sessions.take(), null);
  });

  it('keeps none longer than its life, counted from the full handshake', () => {
    const sessions = storeOf({ lifeMs: 1000 }).of('a', context);
    sessions.keep(session('one'));
    now += 900;
    sessions.keep(session('two'));
    now += 101;
    assert.equal(sessions.take(), null);
  });

  it('forgets what a server would not have', () => {
    const sessions = storeOf().of('a', context);
    sessions.keep(session('one'));
    sessions.forget();
    assert.equal(sessions.take(), null);
  });

  it('is bounded: by server, in number, in size and in time', () => {
    const store = storeOf({ maxKeys: 10, lifeMs: 1000 });
    for (let i = 0; i < 100; i++) store.of('a', context).keep(session(`${i}`));
    assert.equal(store.size, 2);
    for (let i = 0; i < 100; i++) store.of(`key ${i}`, context).keep(session('x'));
    assert.equal(store.size, 10);
    assert.notEqual(store.of('key 99', context).take(), null);
    assert.equal(store.of('key 89', context).take(), null);
    store.of('large', context).keep(session('x'.repeat(17_000)));
    store.of('large', context).keep(session('x', [...chain, Buffer.alloc(17_000)]));
    assert.equal(store.of('large', context).take(), null);
    now += 1001;
    store.of('late', context).keep(session('x'));
    assert.equal(store.size, 1);
  });
});
