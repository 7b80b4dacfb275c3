import { BAD_REQUESTS, GOOD_REQUESTS } from '../../unit/http1/bad-requests.ts';

const TE = 'Transfer-Encoding';

/** Ways to write Transfer-Encoding that some server reads as chunked and some other does not. */
const CODINGS: readonly string[] = [
  `${TE}: chunked`,
  `${TE}:chunked`,
  `${TE} : chunked`,
  `${TE}:\tchunked`,
  `${TE}: \x0bchunked`,
  `${TE}: chunked\x0c`,
  `${TE}: xchunked`,
  `${TE}: chunked, identity`,
  `${TE}: identity, chunked`,
  `${TE}: "chunked"`,
  `${TE}:\r\n chunked`,
  `${TE}\r\n: chunked`,
  `X: y\n${TE}: chunked`,
  `X: y\r${TE}: chunked`,
  ` ${TE}: chunked`,
  `${TE.toLowerCase()}: CHUNKED`,
  `${TE}: chunked\r\n${TE}: x`,
  `Transfer_Encoding: chunked`,
  `\0${TE}: chunked`,
  `${TE}\0: chunked`,
  `${TE}: chunked\0`,
  `${TE}: \xa0chunked`,
  `Content-Encoding: chunked`,
];

const LENGTHS: readonly string[] = [
  '',
  'Content-Length: 0\r\n',
  'Content-Length: 5\r\n',
  'Content-Length: 40\r\n',
  'content-length:6 \r\n',
];

const FORBIDDEN = 'DELETE /forbidden HTTP/1.1\r\nHost: shop\r\n\r\n';

/** What mutation starts from: complete inputs, one character per byte. Forbidden requests hide where they must stay data. */
export const CORPUS: readonly string[] = [
  ...GOOD_REQUESTS,
  ...BAD_REQUESTS.map((bad) => bad.text).filter((text) => text.length < 1000),
  ...CODINGS.flatMap((coding) =>
    LENGTHS.map((length) => `POST / HTTP/1.1\r\nHost: shop\r\n${length}${coding}\r\n\r\n2a\r\n${FORBIDDEN}\r\n0\r\n\r\n${FORBIDDEN}`),
  ),
  `PUT / HTTP/1.1\r\nHost: shop\r\nContent-Length: ${FORBIDDEN.length}\r\n\r\n${FORBIDDEN}GET /next HTTP/1.1\r\nHost: shop\r\n\r\n`,
  `GET /a HTTP/1.1\r\nHost: shop\r\n\r\n${FORBIDDEN}GET /b HTTP/1.1\r\nHost: shop\r\n\r\n`,
  `DELETE /x HTTP/1.1\r\nHost: shop\r\nContent-Length: 5\r\n\r\nhelloGET /c HTTP/1.1\r\nHost: shop\r\n\r\n`,
  `GET /x/../forbidden HTTP/1.1\r\nHost: shop\r\n\r\nGET http://shop/%66orbidden HTTP/1.1\r\nHost: shop\r\n\r\n`,
];

/** Pieces that mutation puts in. */
export const DICTIONARY: readonly string[] = [
  ...CODINGS.map((coding) => `${coding}\r\n`),
  ...LENGTHS,
  '\r\n',
  '\n',
  '\r',
  '\0',
  ' ',
  '\t',
  ':',
  ',',
  ';',
  '0\r\n\r\n',
  '5\r\nhello\r\n',
  'HTTP/1.0',
  'HTTP/1.1',
  'Host: shop\r\n',
  'Host: bank\r\n',
  'Connection: close\r\n',
  'Connection: keep-alive\r\n',
  'Connection: Upgrade\r\nUpgrade: h2c\r\n',
  'Expect: 100-continue\r\n',
  'http://shop',
  '//',
  '/..',
  '%2e%2e/',
  '%66',
  '#',
  '\\',
  FORBIDDEN,
];
