import type { AuthoritySource, AuthorityStatusAnswer, Material, NodeAnswer, SlotAnswer } from '../../src/model/authority-api.ts';
import type { Authority, SlotStatus } from '../authority/authority.ts';
import { type AuthorityMaterial, materialFromPem } from '../authority/authority-material.ts';
import type { NodeRecord } from '../authority/node-records.ts';
import { CertsError } from '../errors.ts';
import { derCertificate } from '../x509/der-certificate.ts';
import { certificatesFromPem, toPem } from '../x509/pem.ts';
import type { IssuanceCounts } from './issuance-counts.ts';
import type { NodeRegister, Sighting } from './node-register.ts';

/** An authority and its nodes as the authority's socket shows them. */
export function authoritySource(authority: Authority, nodes: NodeRegister, counts: IssuanceCounts): AuthoritySource {
  const status = async (): Promise<AuthorityStatusAnswer> => {
    const evicted = await nodes.evicted();
    const { trustDomain, sequence, slots, rotation, nodes: records, issued, warnings } = authority.status();
    const known = new Set(records.map(({ name }) => name));
    return {
      trustDomain,
      sequence: sequence.toString(),
      slots: slots.map((slot) => slotAnswer(authority, slot)),
      rotation: rotation && {
        phase: rotation.phase,
        slot: rotation.slot,
        since: time(rotation.since),
        waitingFor: rotation.waitingFor.map(({ name }) => name),
        waitingUntil: latest(
          rotation.phase === 'publishing'
            ? rotation.waitingFor.map(({ until }) => until)
            : slots.flatMap(({ state, issuedUntil }) => (state === 'old' && issuedUntil !== null ? [issuedUntil] : [])),
        ),
      },
      nodes: [
        ...records.map((record) => nodeAnswer(record, evicted.names.has(record.name), nodes.sighting(record.name))),
        ...[...evicted.names]
          .filter((name) => !known.has(name))
          .map((name) => nodeAnswer({ name, acknowledged: null, liveUntil: null }, true, nodes.sighting(name))),
      ],
      counts: { issued, joins: counts.joins, refused: { ...counts.refused } },
      warnings: [...warnings, ...evicted.problems],
    };
  };
  return {
    status,
    certificates: () => ({
      roots: authority
        .trust()
        .bundle.x509Authorities.map((der) => toPem('CERTIFICATE', der))
        .join(''),
    }),
    prepare: async (material) => slotAnswer(authority, await authority.prepare(readMaterial(material))),
    rotate: async (material) => {
      const given = readMaterial(material);
      await authority.rotate(given === undefined ? {} : { material: given });
    },
    activate: (slot, force) => authority.activate(slot, { force }),
    taint: (slot) => authority.taint(slot),
    revoke: (slot) => authority.revoke(slot),
    tokens: async () =>
      (await authority.tokens.list()).map(({ id, node, reusable, expiresAt }) => ({ id, node, reusable, expiresAt: time(expiresAt) })),
    createToken: async ({ node, ttlSeconds, reusable, allowedNamespaces }) => ({
      token: await authority.tokens.create({ node, ttlSeconds, reusable, namespaces: allowedNamespaces }),
      expiresAt: time(Date.now() + ttlSeconds * 1000),
    }),
    revokeToken: async (id) => {
      if (await authority.tokens.revoke(id)) return;
      throw new CertsError('WEFT_CERTS_TOKEN', 'there is no such token, or it was used', { nextStep: 'see `weft ca token --list`' });
    },
    evictNode: async (name) => {
      // What it could come back with goes first, and what it is waited for with last: then nothing of it can be written again.
      try {
        await authority.tokens.revokeOf(name);
      } finally {
        // Also when a token cannot be read: whoever evicts a node is told of that, and has evicted it.
        await nodes.evict(name);
        authority.nodeGone(name);
      }
    },
  };
}

/**
 * An authority that the operator brings.
 * @throws CertsError WEFT_CERTS_CA_INVALID, WEFT_CERTS_PASSPHRASE
 */
export function readMaterial(material: Material | null): AuthorityMaterial | undefined {
  if (material === null) return undefined;
  const { certificate, key, passphrase } = material;
  return materialFromPem({ certificate, key, ...(passphrase === null ? {} : { passphrase }) });
}

function nodeAnswer(
  { name, acknowledged, liveUntil }: Pick<NodeRecord, 'name' | 'acknowledged'> & { readonly liveUntil: number | null },
  evicted: boolean,
  sighting: Sighting | null,
): NodeAnswer {
  return {
    name,
    evicted,
    lastSeen: sighting === null ? null : time(sighting.at),
    acknowledged: acknowledged?.toString() ?? null,
    liveUntil: liveUntil === null ? null : time(liveUntil),
    clockSkewSeconds: sighting?.clockSkewSeconds ?? null,
  };
}

function slotAnswer(authority: Authority, { id, state, tainted, signingKey, notAfter, issuedUntil }: SlotStatus): SlotAnswer {
  const [signer] = certificatesFromPem(authority.chain(id));
  return {
    id,
    state,
    tainted,
    subject: derCertificate(signer as Uint8Array).subject.replaceAll('\n', ', '),
    keyId: signingKey,
    notAfter: time(notAfter),
    issuedUntil: issuedUntil === null ? null : time(issuedUntil),
  };
}

function latest(times: readonly number[]): string | null {
  return times.length === 0 ? null : time(Math.max(...times));
}

function time(milliseconds: number): string {
  return new Date(milliseconds).toISOString();
}
