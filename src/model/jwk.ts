/** Members of a JWK that only private and symmetric keys have (RFC 7518 section 6). Where one is published, anybody can sign. */
export const PRIVATE_JWK_MEMBERS: readonly string[] = ['d', 'p', 'q', 'dp', 'dq', 'qi', 'oth', 'k'];
