/* oxlint-disable unicorn/require-post-message-target-origin -- that is for windows */
import { createRequire } from 'node:module';
import { parentPort } from 'node:worker_threads';
import { IdentityMirror } from '../../../certs/svid/identity-mirror.ts';
import type { IdentityUpdate } from '../../../src/model/worker-messages.ts';
import { SvidVerifier } from '../../../certs/svid/peer-verifier.ts';
import { certificatesFromPem } from '../../../certs/x509/pem.ts';
import { SvidTlsContexts } from '../../../certs/svid/tls-contexts.ts';

/** A proxy worker reduced to its identities: asks for one, uses it, says how that went. */
const SERVER = 'spiffe://example.org/ns/shop/sa/cart';
const mirror = new IdentityMirror({ request: (identity) => parentPort?.postMessage(identity) });
const contexts = new SvidTlsContexts(mirror);
parentPort?.on('message', (update: IdentityUpdate) => mirror.apply(update));
await contexts.wait(SERVER, 5000);
const peer = new SvidVerifier(mirror).verify(certificatesFromPem(mirror.current(SERVER)?.certificateChain ?? ''));
const libraries = Object.keys(createRequire(import.meta.url).cache).filter((path) => path.includes('node_modules'));
parentPort?.postMessage({ ready: contexts.context(SERVER) !== null, peer: peer.text, libraries });
