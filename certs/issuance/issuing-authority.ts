import type { Authority } from '../authority/authority.ts';

/** The part of the certificate authority that issuing for nodes needs. */
export type IssuingAuthority = Pick<
  Authority,
  'trustDomain' | 'issue' | 'issueJwt' | 'trust' | 'sequence' | 'signer' | 'onChange' | 'nodeSeen' | 'nodeGone'
> & {
  readonly tokens: Pick<Authority['tokens'], 'find' | 'redeem'>;
};
