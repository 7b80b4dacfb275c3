import { join } from 'node:path';
import type { SvidMaterial } from '../../src/model/data-plane.ts';
import { errorText } from '../../src/model/errors.ts';
import type { TrustState } from '../bundle/trust-state.ts';
import { CertsError } from '../errors.ts';
import { readPrivateFile, replacePrivateFile } from '../private-file.ts';
import { keyObject, shareKey } from '../svid/private-key.ts';
import { derCertificate } from '../x509/der-certificate.ts';
import { readCertificateFields } from '../x509/certificate-fields.ts';
import { certificatesFromPem } from '../x509/pem.ts';

/** What a node keeps to come back after a restart without a token: its own SVID with its key, and the trust state it had. */
export interface NodeState {
  readonly svid: SvidMaterial;
  readonly trust: TrustState;
}

interface Written {
  readonly identity: string;
  readonly certificateChain: string;
  /** PKCS#8, base64. */
  readonly privateKey: string;
  readonly trust: {
    readonly trustDomain: string;
    readonly sequence: string;
    readonly refreshHintSeconds: number | null;
    readonly x509Authorities: readonly string[];
    readonly jwtAuthorities: TrustState['bundle']['jwtAuthorities'];
    readonly taintedKeys: readonly string[];
    readonly revokedKeys: readonly string[];
  };
}

const FILE = 'node.json';

/**
 * Reads the state that an earlier run kept; null when there is none.
 * @throws CertsError WEFT_CERTS_KEY_FILE when others can read it, WEFT_CERTS_NODE_STATE when it is of no use
 */
export async function readNodeState(directory: string): Promise<NodeState | null> {
  const path = join(directory, FILE);
  const text = await readPrivateFile(path);
  if (text === null) return null;
  try {
    const { identity, certificateChain, privateKey, trust } = JSON.parse(text) as Written;
    const chain = certificatesFromPem(certificateChain);
    const key = shareKey(new Uint8Array(Buffer.from(privateKey, 'base64')));
    const leaf = derCertificate(chain[0] as Uint8Array);
    if (!leaf.checkPrivateKey(keyObject(key))) throw new Error('its key does not belong to its certificate');
    const sequence = BigInt(trust.sequence);
    return {
      svid: { identity, certificateChain, privateKey: key, notAfter: Math.min(...chain.map((der) => readCertificateFields(der).notAfter)) },
      trust: {
        sequence,
        bundle: {
          trustDomain: trust.trustDomain,
          sequence,
          refreshHintSeconds: trust.refreshHintSeconds,
          x509Authorities: trust.x509Authorities.map((der) => new Uint8Array(Buffer.from(der, 'base64'))),
          jwtAuthorities: trust.jwtAuthorities,
        },
        taintedKeys: trust.taintedKeys,
        revokedKeys: trust.revokedKeys,
      },
    };
  } catch (error) {
    // Without the text, which holds the key; a JSON error would quote it.
    throw new CertsError('WEFT_CERTS_NODE_STATE', `cannot use ${path}${error instanceof SyntaxError ? '' : `: ${errorText(error)}`}`, {
      nextStep: 'remove the file, and let the node join again with a new token of `weft ca token`',
    });
  }
}

/** Keeps the state for the next start, mode 0600. @throws CertsError WEFT_CERTS_DIRECTORY */
export async function writeNodeState(directory: string, { svid, trust }: NodeState): Promise<void> {
  const written: Written = {
    identity: svid.identity,
    certificateChain: svid.certificateChain,
    privateKey: Buffer.from(svid.privateKey).toString('base64'),
    trust: {
      trustDomain: trust.bundle.trustDomain,
      sequence: trust.sequence.toString(),
      refreshHintSeconds: trust.bundle.refreshHintSeconds,
      x509Authorities: trust.bundle.x509Authorities.map((der) => Buffer.from(der).toString('base64')),
      jwtAuthorities: trust.bundle.jwtAuthorities,
      taintedKeys: trust.taintedKeys,
      revokedKeys: trust.revokedKeys,
    },
  };
  await replacePrivateFile(join(directory, FILE), `${JSON.stringify(written)}\n`);
}
