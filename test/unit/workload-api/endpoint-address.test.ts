import assert from 'node:assert/strict';
import { test } from 'node:test';
import { parseEndpointAddress } from '../../../certs/workload-api/endpoint-address.ts';

// SPIFFE_Workload_Endpoint.md section 4; the cases are those of go-spiffe's workloadapi/addr_test.go and some more.

test('a unix address names an absolute path, a tcp address an IP address and a port', () => {
  assert.deepEqual(parseEndpointAddress('unix:///run/weft/public/workload-api.sock'), {
    kind: 'unix',
    path: '/run/weft/public/workload-api.sock',
  });
  assert.deepEqual(parseEndpointAddress('unix:///a%20b'), { kind: 'unix', path: '/a b' });
  assert.deepEqual(parseEndpointAddress('tcp://1.2.3.4:5'), { kind: 'tcp', host: '1.2.3.4', port: 5 });
  assert.deepEqual(parseEndpointAddress('tcp://[::1]:65535'), { kind: 'tcp', host: '::1', port: 65_535 });
});

const WRONG: readonly string[] = [
  '',
  'blah',
  '/run/socket',
  'http://1.2.3.4:5',
  'UNIX:///foo',
  'unix:foo',
  'unix:/foo',
  'unix://',
  'unix:///',
  'unix://foo',
  'unix://foo/bar',
  'unix:///foo?wat',
  'unix:///foo#wat',
  'unix:///foo/',
  'unix:///a%00b',
  'unix:///a%zz',
  'unix:///a\nb',
  'tcp:1.2.3.4:5',
  'tcp://',
  'tcp://:5',
  'tcp://1.2.3.4',
  'tcp://1.2.3.4:0',
  'tcp://1.2.3.4:65536',
  'tcp://1.2.3.4:5/',
  'tcp://1.2.3.4:5?wat',
  'tcp://1.2.3.4:5#wat',
  'tcp://john:doe@1.2.3.4:5',
  'tcp://foo:5',
  'tcp://localhost:5',
  'tcp://1.2.3:5',
  'tcp://::1:5',
  'tcp://[1.2.3.4]:5',
];
for (const address of WRONG) {
  test(`${JSON.stringify(address)} is no address of a Workload API`, () => {
    assert.throws(() => parseEndpointAddress(address), { code: 'WEFT_IDENTITY_ENDPOINT' });
  });
}
