import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { parseSpiffeId, workloadIdentity } from '../../../src/model/identity.ts';
import type { ConnectionAttributes, RequestAttributes } from '../../../src/model/policy.ts';
import type { PolicyOperation, PolicySource } from '../../../src/model/resources.ts';
import { allow, compile, connection, plaintext, request, rule } from './fixtures.ts';

function sourceMatches(source: PolicySource, peer: ConnectionAttributes): boolean {
  return (
    compile([allow('a/p', rule([source]))])
      .bind(peer)
      .request(request()).verdict === 'allow'
  );
}

function operationMatches(operation: PolicyOperation, asked: RequestAttributes, peer: ConnectionAttributes = connection()): boolean {
  return (
    compile([allow('a/p', rule([], [operation]))])
      .bind(peer)
      .request(asked).verdict === 'allow'
  );
}

const web = connection();
const db = connection({ sourceIdentity: workloadIdentity('cluster.local', 'data', 'db'), sourceAddress: '10.2.0.1' });
const external = connection({ sourceIdentity: parseSpiffeId('spiffe://other.example/gateway') });

type SourceField = 'principals' | 'namespaces' | 'serviceAccounts' | 'ipBlocks';
/** Field, value, peer, whether it matches. The not-form is checked to be the opposite in each row. */
const SOURCES: readonly (readonly [SourceField, string, string, ConnectionAttributes, boolean])[] = [
  ['principals', 'cluster.local/ns/shop/sa/web', 'web', web, true],
  ['principals', 'cluster.local/ns/shop/sa/web', 'db', db, false],
  ['principals', 'spiffe://cluster.local/ns/shop/sa/web', 'web', web, false],
  ['principals', 'Cluster.local/ns/shop/sa/web', 'web', web, false],
  ['principals', 'cluster.local/ns/shop/*', 'web', web, true],
  ['principals', 'cluster.local/ns/shop/*', 'db', db, false],
  ['principals', '*/sa/web', 'web', web, true],
  ['principals', '*/sa/we', 'web', web, false],
  ['principals', '*', 'web', web, true],
  ['principals', '*', 'a path that is no service account', external, true],
  ['principals', '*', 'plaintext', plaintext, false],
  ['principals', 'cluster.local/ns/shop/sa/web', 'plaintext', plaintext, false],
  ['principals', 'cluster.local/ns/*/sa/web', 'web: an inner star is a character', web, false],
  ['namespaces', 'shop', 'web', web, true],
  ['namespaces', 'sho', 'web', web, false],
  ['namespaces', 'sho*', 'web', web, true],
  ['namespaces', '*op', 'web', web, true],
  ['namespaces', '*', 'web', web, true],
  ['namespaces', '*', 'no namespace in the identity', external, false],
  ['namespaces', '*', 'plaintext', plaintext, false],
  ['serviceAccounts', 'shop/web', 'web', web, true],
  ['serviceAccounts', 'shop/webb', 'web', web, false],
  ['serviceAccounts', 'data/web', 'web', web, false],
  ['serviceAccounts', 'shop/web', 'no account in the identity', external, false],
  ['serviceAccounts', 'shop/web', 'plaintext', plaintext, false],
  ['ipBlocks', '10.1.2.3', 'web', web, true],
  ['ipBlocks', '10.1.2.4', 'web', web, false],
  ['ipBlocks', '10.1.0.0/16', 'web', web, true],
  ['ipBlocks', '10.1.0.0/16', 'db', db, false],
  ['ipBlocks', '10.1.99.99/16', 'host bits of a block do not count', web, true],
  ['ipBlocks', '0.0.0.0/0', 'web', web, true],
  ['ipBlocks', '0.0.0.0/0', 'IPv6 is no IPv4', connection({ sourceAddress: 'fd00::1' }), false],
  ['ipBlocks', '::/0', 'IPv4 is no IPv6', web, false],
  ['ipBlocks', '::/0', 'IPv6', connection({ sourceAddress: 'fd00::1' }), true],
  ['ipBlocks', 'fd00::/8', 'IPv6', connection({ sourceAddress: 'fd12:3456::7' }), true],
  ['ipBlocks', 'fd00::/16', 'IPv6', connection({ sourceAddress: 'fd12:3456::7' }), false],
  ['ipBlocks', 'fd12:3456::7', 'IPv6 written in full', connection({ sourceAddress: 'fd12:3456:0:0:0:0:0:7' }), true],
  ['ipBlocks', 'fe80::/10', 'a zone', connection({ sourceAddress: 'fe80::1%eth0' }), true],
  ['ipBlocks', '::ffff:10.1.0.0/112', 'a mapped block is IPv4', web, true],
  ['ipBlocks', '10.1.0.0/16', 'a mapped address is IPv4', connection({ sourceAddress: '::ffff:10.1.2.3' }), true],
  ['ipBlocks', '10.1.0.0/16', 'a mapped address in hexadecimal', connection({ sourceAddress: '::ffff:a01:203' }), true],
  ['ipBlocks', '10.1.2.3/32', 'plaintext', plaintext, true],
];

type RequestField = 'hosts' | 'methods' | 'paths';
const REQUESTS: readonly (readonly [RequestField, string, Partial<RequestAttributes>, boolean])[] = [
  ['hosts', 'items.shop', { host: 'items.shop' }, true],
  ['hosts', 'Items.SHOP', { host: 'items.shop' }, true],
  ['hosts', 'items.shop', { host: 'items.shop:8080' }, false],
  ['hosts', 'items.shop:*', { host: 'items.shop:8080' }, true],
  ['hosts', 'items.*', { host: 'items.data' }, true],
  ['hosts', 'items.*', { host: 'otheritems.data' }, false],
  ['hosts', '*.SHOP', { host: 'items.shop' }, true],
  ['hosts', '*.shop', { host: 'shop' }, false],
  ['hosts', '*', { host: 'x' }, true],
  ['hosts', '*', { host: '' }, false],
  ['hosts', 'items.shop', { host: '' }, false],
  ['methods', 'GET', { method: 'GET' }, true],
  ['methods', 'GET', { method: 'get' }, false],
  ['methods', 'GET', { method: 'GETX' }, false],
  ['methods', 'P*', { method: 'POST' }, true],
  ['methods', '*T', { method: 'POST' }, true],
  ['methods', '*', { method: 'BREW' }, true],
  ['paths', '/api/items', { path: '/api/items' }, true],
  ['paths', '/api/items', { path: '/API/items' }, false],
  ['paths', '/api/items', { path: '/api/items/' }, false],
  ['paths', '/api/*', { path: '/api/' }, true],
  ['paths', '/api/*', { path: '/api' }, false],
  ['paths', '/api*', { path: '/api' }, true],
  ['paths', '*/items', { path: '/api/items' }, true],
  ['paths', '*/items', { path: '/items' }, true],
  ['paths', '*/items', { path: '/items/1' }, false],
  ['paths', '*', { path: '/' }, true],
  ['paths', '/a/*/c', { path: '/a/b/c' }, false],
  ['paths', '/a/*/c', { path: '/a/*/c' }, true],
  ['paths', '*a*', { path: '/bab' }, false],
  ['paths', '*a*', { path: '/ba*' }, true],
];

describe('a source matches', () => {
  for (const [field, value, who, peer, expected] of SOURCES) {
    it(`${field} ${value}: ${who}: ${expected}, and its not-form the opposite`, () => {
      assert.equal(sourceMatches({ [field]: [value] }, peer), expected);
      const notField = `not${field[0]?.toUpperCase()}${field.slice(1)}`;
      assert.equal(sourceMatches({ [notField]: [value] }, peer), !expected);
    });
  }

  it('any of the values of a field, and all of the fields', () => {
    assert.equal(sourceMatches({ namespaces: ['x', 'shop', 'y'] }, web), true);
    assert.equal(sourceMatches({ notNamespaces: ['x', 'shop', 'y'] }, web), false);
    assert.equal(sourceMatches({ namespaces: ['shop'], ipBlocks: ['10.1.0.0/16'] }, web), true);
    assert.equal(sourceMatches({ namespaces: ['shop'], ipBlocks: ['10.2.0.0/16'] }, web), false);
    assert.equal(sourceMatches({ namespaces: ['*'], notPrincipals: ['*/sa/web'] }, web), false);
    assert.equal(sourceMatches({ namespaces: ['*'], notPrincipals: ['*/sa/web'] }, db), true);
  });

  it('a plaintext peer by what it is not: the negation of something missing is true', () => {
    assert.equal(sourceMatches({ notPrincipals: ['*'] }, plaintext), true);
    assert.equal(sourceMatches({ notNamespaces: ['*'] }, plaintext), true);
    assert.equal(sourceMatches({ notServiceAccounts: ['shop/web'] }, plaintext), true);
  });
});

describe('an operation matches', () => {
  for (const [field, value, change, expected] of REQUESTS) {
    it(`${field} ${value}: ${JSON.stringify(Object.values(change)[0])}: ${expected}, and its not-form the opposite`, () => {
      assert.equal(operationMatches({ [field]: [value] }, request(change)), expected);
      const notField = `not${field[0]?.toUpperCase()}${field.slice(1)}`;
      assert.equal(operationMatches({ [notField]: [value] }, request(change)), !expected);
    });
  }

  it("the workload's port", () => {
    assert.equal(operationMatches({ ports: [80, 8080] }, request()), true);
    assert.equal(operationMatches({ ports: [80] }, request()), false);
    assert.equal(operationMatches({ notPorts: [80] }, request()), true);
    assert.equal(operationMatches({ notPorts: [80, 8080] }, request()), false);
  });

  it('all of its fields together', () => {
    const operation: PolicyOperation = {
      methods: ['GET'],
      paths: ['/api/*'],
      notPaths: ['/api/secret*'],
      hosts: ['items.*'],
      ports: [8080],
    };
    assert.equal(operationMatches(operation, request()), true);
    assert.equal(operationMatches(operation, request({ method: 'PUT' })), false);
    assert.equal(operationMatches(operation, request({ path: '/api/secrets' })), false);
    assert.equal(operationMatches(operation, request({ host: 'other' })), false);
    assert.equal(operationMatches(operation, request(), connection({ destinationPort: 8081 })), false);
  });

  it('the right ones among very many exact, prefix and suffix values', () => {
    const paths = Array.from({ length: 3000 }, (_, i) => [`/exact/${i}`, `/prefix/${i}/*`, `*/suffix/${i}`]).flat();
    const policy = compile([allow('a/p', rule([], [{ paths }]))]).bind(connection());
    const verdict = (path: string): string => policy.request(request({ path })).verdict;
    assert.equal(verdict('/exact/2999'), 'allow');
    assert.equal(verdict('/exact/3000'), 'deny');
    assert.equal(verdict('/prefix/1234/x'), 'allow');
    assert.equal(verdict('/prefix/3000/x'), 'deny');
    assert.equal(verdict('/prefix/12'), 'deny');
    assert.equal(verdict('/x/suffix/77'), 'allow');
    assert.equal(verdict('/x/suffix/7777'), 'deny');
  });

  it('a longer prefix although a shorter one does not', () => {
    const operation: PolicyOperation = { paths: ['/a/b/c*', '/a/bc*', '/a*x', '/ab*', '/a/b/d*'] };
    assert.equal(operationMatches(operation, request({ path: '/a/b/cz' })), true);
    assert.equal(operationMatches(operation, request({ path: '/a/b/dz' })), true);
    assert.equal(operationMatches(operation, request({ path: '/a/b/ez' })), false);
    assert.equal(operationMatches(operation, request({ path: '/a/b' })), false);
  });
});
