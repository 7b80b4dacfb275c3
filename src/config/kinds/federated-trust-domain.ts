import { X509Certificate } from 'node:crypto';
import { errorText } from '../../model/errors.ts';
import { parseSpiffeId } from '../../model/identity.ts';
import type { BundleEndpointProfile, FederatedTrustDomainResource } from '../../model/resources.ts';
import { quote } from '../config-problem.ts';
import { refusedKeySet } from '../jwks-source.ts';
import type { Draft } from './draft.ts';

interface FederatedTrustDomainSpec {
  readonly trustDomain: string;
  readonly bundleEndpointURL: string;
  readonly bundleEndpointProfile: WrittenProfile;
  readonly trustDomainBundle?: string;
}

interface WrittenProfile {
  readonly type: 'https_web' | 'https_spiffe';
  readonly endpointSPIFFEID?: string;
  readonly webRoots?: string;
}

const PROFILE = ['spec', 'bundleEndpointProfile'];
const CERTIFICATES = /-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----/g;

/** weft.dev/v1 FederatedTrustDomain, and SPIRE's ClusterFederatedTrustDomain, to the model. */
export function toFederatedTrustDomain(draft: Draft): FederatedTrustDomainResource {
  const {
    trustDomain,
    bundleEndpointURL,
    bundleEndpointProfile,
    trustDomainBundle = null,
  } = draft.spec as unknown as FederatedTrustDomainSpec;
  const badUrl = refusedEndpointUrl(bundleEndpointURL);
  if (badUrl !== null) {
    draft.fail(
      ['spec', 'bundleEndpointURL'],
      `${quote(bundleEndpointURL)} ${badUrl}`,
      'write it as https://spiffe.example.org/bundle.json',
    );
  }
  const badBundle = trustDomainBundle === null ? null : refusedKeySet(trustDomainBundle);
  if (badBundle !== null) {
    draft.fail(['spec', 'trustDomainBundle'], `the bundle ${badBundle}`, 'write what the trust domain publishes: {"keys": […]}');
  }
  return {
    kind: 'FederatedTrustDomain',
    metadata: draft.metadata,
    location: draft.location,
    spec: {
      trustDomain,
      bundleEndpointUrl: bundleEndpointURL,
      profile: profileOf(draft, bundleEndpointProfile, trustDomain, trustDomainBundle !== null),
      initialBundle: trustDomainBundle,
    },
  };
}

function profileOf(
  draft: Draft,
  { type, endpointSPIFFEID, webRoots }: WrittenProfile,
  trustDomain: string,
  hasBundle: boolean,
): BundleEndpointProfile {
  if (type === 'https_web') {
    if (endpointSPIFFEID !== undefined) {
      draft.fail([...PROFILE, 'endpointSPIFFEID'], 'an https_web endpoint has no SPIFFE ID', 'remove it, or write type: https_spiffe');
    }
    if (webRoots !== undefined && !areCertificates(webRoots)) {
      draft.fail(
        [...PROFILE, 'webRoots'],
        'there is no PEM certificate in it, or one that cannot be read',
        'write the PEM of CA certificates',
      );
    }
    return { type, webRoots: webRoots ?? null };
  }
  if (webRoots !== undefined) {
    draft.fail(
      [...PROFILE, 'webRoots'],
      'an https_spiffe endpoint is not verified with authorities of the web',
      'remove it, or write type: https_web',
    );
  }
  if (endpointSPIFFEID === undefined) {
    draft.fail(
      [...PROFILE, 'endpointSPIFFEID'],
      'is required for https_spiffe',
      'write the SPIFFE ID of the endpoint',
      'WEFT_CONFIG_MISSING_FIELD',
    );
    return { type, endpointId: '' };
  }
  const endpointTrustDomain = workloadTrustDomain(draft, endpointSPIFFEID);
  if (endpointTrustDomain === trustDomain && !hasBundle) {
    draft.fail(
      ['spec', 'trustDomainBundle'],
      `is required: the endpoint's own SVID is of ${quote(trustDomain)}, and can only be verified with its bundle`,
      'write the bundle that the operator of that trust domain gives you',
      'WEFT_CONFIG_MISSING_FIELD',
    );
  }
  return { type, endpointId: endpointSPIFFEID };
}

/** The trust domain of the endpoint's SPIFFE ID; null when it is none. */
function workloadTrustDomain(draft: Draft, text: string): string | null {
  const at = [...PROFILE, 'endpointSPIFFEID'];
  try {
    const id = parseSpiffeId(text);
    if (id.path === '') draft.fail(at, `${quote(text)} names a trust domain, not an endpoint`, 'write the whole SPIFFE ID of the endpoint');
    return id.trustDomain;
  } catch (error) {
    draft.fail(at, errorText(error), 'write it as spiffe://example.org/bundle-endpoint');
    return null;
  }
}

/**
 * Why a text is not the URL of a bundle endpoint (SPIFFE_Federation.md sections 5.2.1.1 and 5.2.2.1), as the end of a sentence; null when it is.
 * Where it leads to is not asked: whoever may write it may say whom this mesh trusts.
 */
function refusedEndpointUrl(text: string): string | null {
  const url = URL.parse(text);
  if (url === null) return 'is not a URL';
  if (url.protocol !== 'https:') return 'is not an https URL';
  // new URL() repairs what it reads: spaces, backslashes, missing slashes. None of that is in an honest URL.
  if (!/^https:\/\/[^/\\\s]+(?:[/?][!-[\]-~]*)?$/i.test(text)) return 'is not written as a URL should be';
  if (url.username !== '' || url.password !== '') return 'has a user name or password in it';
  return url.hash === '' ? null : 'has a fragment, which is never sent';
}

function areCertificates(pem: string): boolean {
  try {
    return (pem.match(CERTIFICATES) ?? []).map((each) => new X509Certificate(each)).length > 0;
  } catch {
    return false;
  }
}
