import { X509Certificate } from 'node:crypto';
import type { AuthoritySource, AuthorityStatusAnswer, Material, NodeAnswer, SlotAnswer } from '../../src/model/authority-api.ts';
import type { Authority, SlotStatus } from '../authority/authority.ts';
import { type AuthorityMaterial, materialFromPem } from '../authority/authority-material.ts';
import { CertsError } from '../errors.ts';
import { certificatesFromPem, toPem } from '../x509/pem.ts';
import type { NodeRegister } from './node-register.ts';

/** An authority and its nodes as the authority's socket shows them. */
export function authoritySource(authority: Authority, nodes: NodeRegister): AuthoritySource {
  const status = (): AuthorityStatusAnswer => {
    const { trustDomain, sequence, slots, rotation, nodes: records, warnings } = authority.status();
    return {
      trustDomain,
      sequence: sequence.toString(),
      slots: slots.map((slot) => slotAnswer(authority, slot)),
      rotation: rotation && {
        phase: rotation.phase,
        slot: rotation.slot,
        since: time(rotation.since),
        waitingFor: rotation.waitingFor.map(({ name }) => name),
      },
      nodes: records.map(({ name, acknowledged, liveUntil }): NodeAnswer => {
        const sighting = nodes.sighting(name);
        return {
          name,
          evicted: nodes.isEvicted(name),
          lastSeen: sighting === null ? null : time(sighting.at),
          acknowledged: acknowledged?.toString() ?? null,
          liveUntil: time(liveUntil),
          clockSkewSeconds: sighting?.clockSkewSeconds ?? null,
        };
      }),
      warnings,
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
      await nodes.evict(name);
      // With one of these it would be back at once.
      await authority.tokens.revokeOf(name);
      authority.forgetNode(name);
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

function slotAnswer(authority: Authority, { id, state, tainted, signingKey, notAfter, issuedUntil }: SlotStatus): SlotAnswer {
  const [signer] = certificatesFromPem(authority.chain(id));
  return {
    id,
    state,
    tainted,
    subject: new X509Certificate(signer as Uint8Array).subject.replaceAll('\n', ', '),
    keyId: signingKey,
    notAfter: time(notAfter),
    issuedUntil: issuedUntil === null ? null : time(issuedUntil),
  };
}

function time(milliseconds: number): string {
  return new Date(milliseconds).toISOString();
}
