import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import { DETECT_MAX_BYTES, type DetectedProtocol, detectProtocol } from '../../../proxy/detect/detect-protocol.ts';
import { BAD_REQUESTS, GOOD_REQUESTS } from '../http1/bad-requests.ts';

const PREFACE = 'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n';
const CLIENT_HELLO = '\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03';

function detect(text: string): DetectedProtocol {
  return detectProtocol(Buffer.from(text, 'latin1'));
}

/** How many bytes of the text are needed for an answer. */
function needed(text: string): number {
  for (let length = 1; length <= text.length; length++) if (detect(text.slice(0, length)) !== 'incomplete') return length;
  return Number.POSITIVE_INFINITY;
}

describe('what the first bytes are', () => {
  for (const [text, protocol] of [
    ['', 'incomplete'],
    ['G', 'incomplete'],
    ['GET ', 'incomplete'],
    ['GET /', 'http1'],
    ['P', 'incomplete'],
    ['PR', 'incomplete'],
    ['POST /x HT', 'http1'],
    ['PROPFIND /x HTTP/1.1', 'http1'],
    ['PROPFIND /x\r\n', 'opaque'],
    ['OPTIONS * HTTP/1.1\r\n', 'http1'],
    ['CONNECT shop:80 HTTP/1.1\r\n', 'http1'],
    ['GET http://shop/ HTTP/1.1\r\n', 'http1'],
    [PREFACE, 'http2'],
    [`${PREFACE}\0\0`, 'http2'],
    [PREFACE.slice(0, 23), 'incomplete'],
    ['PRI * HTTP/2.0\r\n\r\nXX', 'http1'],
    [CLIENT_HELLO, 'tls'],
    [CLIENT_HELLO.slice(0, 5), 'incomplete'],
    ['\x16\x03\x01\x00\x01\x01', 'tls'],
    ['\x16\x03\x01\x02\x00\x02', 'opaque'],
    ['\x16\x03\x01\x00\x00\x01', 'opaque'],
    ['\x16\x03\x01\xff\xff\x01', 'opaque'],
    ['\x16\x02', 'opaque'],
    ['\x80\x2e\x01', 'opaque'],
    ['A'.repeat(DETECT_MAX_BYTES), 'opaque'],
    [`\r\n${'A'.repeat(DETECT_MAX_BYTES)}`, 'http1'],
    ['SSH-2.0-OpenSSH_9.2\r\n', 'opaque'],
    ['SSH-2.0-OpenSSH_9.2 Debian\r\n', 'opaque'],
    ['EHLO host\r\n', 'opaque'],
    ['*1\r\n$4\r\nPING\r\n', 'opaque'],
    ['get /key\r\n', 'opaque'],
    ['PING\r\n', 'opaque'],
    ['{"json": 1}', 'opaque'],
    ['\x00\x00\x00\x08\x04\xd2\x16\x2f', 'opaque'],
    ['AMQP\x00\x00\x09\x01', 'opaque'],
    ['\x10\x0cMQTT', 'opaque'],
  ] as const) {
    test(`${JSON.stringify(text)} is ${protocol}`, () => assert.equal(detect(text), protocol));
  }
});

describe('a first line that a lenient server would take for HTTP is HTTP, for the strict parser to refuse', () => {
  for (const text of [
    '\r\nGET / HTTP/1.1\r\n',
    '\n\n GET / HTTP/1.1\r\n',
    '\r\n'.repeat(20),
    'get / HTTP/1.1\r\n',
    'GET\t/\tHTTP/1.1\r\n',
    'GET  / HTTP/1.1\n',
    // Python's http.server splits at whatever Unicode calls a space.
    'GET\x0b/\x0cHTTP/1.1\r\n',
    '\x0bGET\r/\rHTTP/1.1\r\n',
    'GET\x1c/\x1fHTTP/1.1\r\n',
    'GET\x85/\xa0HTTP/1.1\r\n',
    // Go's server takes methods of any length.
    `${'A'.repeat(33)} / HTTP/1.1\r\n`,
    'DELETE forbidden http/1.1\r\n',
    'GET /a\x00b HTTP/1.1\r\n',
    'GET /\xff HTTP/1.1\r\n',
    `LOCK /${'a'.repeat(DETECT_MAX_BYTES)}`,
    `LOCK  \t/${'a'.repeat(DETECT_MAX_BYTES)}`,
    `delete http://${'a'.repeat(DETECT_MAX_BYTES)}`,
  ]) {
    test(JSON.stringify(text.slice(0, 40)), () => assert.equal(detect(text), 'http1'));
  }
});

test('requests are recognised within their first line', () => {
  for (const text of [...GOOD_REQUESTS, ...BAD_REQUESTS.map((bad) => bad.text)]) {
    if (text.startsWith('GE\0')) continue;
    const protocol = detect(text);
    assert.equal(protocol, 'http1', JSON.stringify(text.slice(0, 60)));
  }
});

test('the answer comes as early as it can', () => {
  assert.equal(needed('GET / HTTP/1.1\r\n'), 5);
  assert.equal(needed('\x00garbage'), 1);
  assert.equal(needed('\xffgarbage'), 1);
  assert.equal(needed('abc\x01'), 4);
  assert.equal(needed(CLIENT_HELLO), 6);
  assert.equal(needed(PREFACE), 24);
  assert.equal(needed(`${'A'.repeat(100)}:`), 101);
});

test('an answer, once given, holds for every continuation, and comes within the bound', () => {
  const starts = fc.constantFrom(
    '',
    'GET ',
    'GET /',
    'PRI * HT',
    PREFACE,
    '\x16\x03',
    CLIENT_HELLO,
    'foo ',
    'foo /a ',
    'FOO a HTTP',
    '\r\n',
    ' ',
    'a\t',
  );
  const rest = fc.string({
    unit: fc.constantFrom('A', 'a', ' ', '\t', '\x0b', '\x85', '\r', '\n', '/', 'H', 'HTTP/', ':', '\0', '\xff', '\x16'),
    maxLength: 60,
  });
  fc.assert(
    fc.property(starts, rest, fc.nat(), (start, rest, cut) => {
      const text = start + rest;
      const early = detect(text.slice(0, cut % (text.length + 1)));
      if (early !== 'incomplete') assert.equal(detect(text), early);
    }),
    { numRuns: 5000 },
  );
  fc.assert(
    fc.property(fc.uint8Array({ minLength: DETECT_MAX_BYTES, maxLength: DETECT_MAX_BYTES + 10 }), starts, (bytes, start) => {
      const buffer = Buffer.concat([Buffer.from(start, 'latin1'), bytes]);
      assert.notEqual(detectProtocol(buffer), 'incomplete');
    }),
  );
  assert.notEqual(detect('a '.repeat(DETECT_MAX_BYTES)), 'incomplete');
  assert.notEqual(detect(`a ${'HTTP '.repeat(DETECT_MAX_BYTES)}`), 'incomplete');
});
