import assert from 'node:assert/strict';
import { chmod, mkdtemp, readdir, readFile, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, beforeEach, test } from 'node:test';
import { JoinTokens, matchesPin, parseJoinToken, type TokenGrant } from '../../../certs/authority/join-tokens.ts';

let home: string;
let directory: string;
let now = Date.now();
let redeemed: TokenGrant[] = [];
let isFull = false;
const roots = [Buffer.from('root one'), Buffer.from('root two')];
const NODE = { node: 'node-1', ttlSeconds: 600 };

const open = (): JoinTokens =>
  new JoinTokens({
    directory,
    now: () => now,
    roots: () => roots,
    onRedeem: () => {
      if (isFull) throw new Error('no room');
    },
    onRedeemed: (grant) => redeemed.push(grant),
  });

before(async () => {
  home = await mkdtemp(join(tmpdir(), 'weft-tokens-'));
});

beforeEach(() => {
  directory = join(home, Math.random().toString(36).slice(2));
  redeemed = [];
  isFull = false;
});

after(() => rm(home, { recursive: true, force: true }));

test('a token lets its node in once, with what was granted', async () => {
  const tokens = open();
  const token = await tokens.create({ ...NODE, namespaces: ['shop'] });
  const grant = await open().redeem(token);
  assert.deepEqual([grant.node, grant.namespaces, grant.reusable], ['node-1', ['shop'], false]);
  assert.deepEqual(redeemed, [grant]);
  await assert.rejects(tokens.redeem(token), { code: 'WEFT_CERTS_TOKEN', message: /unknown, or was used/ });
  assert.equal(redeemed.length, 1);
});

test('a token that is only looked at is not used up, nor one for which there is no room', async () => {
  const tokens = open();
  const token = await tokens.create(NODE);
  assert.equal((await open().find(token)).node, 'node-1');
  isFull = true;
  await assert.rejects(tokens.redeem(token), /no room/);
  assert.deepEqual(redeemed, []);
  isFull = false;
  await tokens.redeem(token);
  await assert.rejects(tokens.find(token), { code: 'WEFT_CERTS_TOKEN', message: /unknown, or was used/ });
});

test('of twenty that come with one token at once, in two processes, exactly one gets in', async () => {
  const processes = [open(), open()];
  const token = await open().create(NODE);
  const results = await Promise.allSettled(Array.from({ length: 20 }, (_, i) => (processes[i % 2] as JoinTokens).redeem(token)));
  assert.equal(results.filter((result) => result.status === 'fulfilled').length, 1);
});

test('a reusable token is good until it expires', async () => {
  const tokens = open();
  const token = await tokens.create({ ...NODE, reusable: true });
  await tokens.redeem(token);
  await tokens.redeem(token);
  now += 600_000;
  await assert.rejects(tokens.redeem(token), { code: 'WEFT_CERTS_TOKEN', message: /expired/ });
  assert.deepEqual(await tokens.list(), []);
});

test('only a hash of the secret is kept, in a file that nobody else can read', async () => {
  const token = await open().create(NODE);
  const [file] = await readdir(directory);
  const path = join(directory, file as string);
  assert.equal((await stat(path)).mode & 0o777, 0o600);
  assert.equal((await stat(directory)).mode & 0o777, 0o700);
  const secret = token.split('.')[1] as string;
  assert.equal(`${file}${await readFile(path, 'utf8')}`.includes(secret), false);
  assert.equal(`${file}${await readFile(path, 'utf8')}`.includes(Buffer.from(secret, 'base64url').toString('hex')), false);
});

test('a token file that others can read is refused', async () => {
  const token = await open().create(NODE);
  const [file] = await readdir(directory);
  await chmod(join(directory, file as string), 0o644);
  await assert.rejects(open().redeem(token), { code: 'WEFT_CERTS_KEY_FILE' });
});

test('a token pins the roots, in whatever order, and no others', async () => {
  const parsed = parseJoinToken(`${await open().create(NODE)}\n`);
  assert.equal(matchesPin(parsed, [...roots].toReversed()), true);
  assert.equal(matchesPin(parsed, roots.slice(0, 1)), false);
  assert.equal(matchesPin(parsed, [...roots, Buffer.from('root three')]), false);
  assert.equal(matchesPin(parsed, []), false);
});

test('what is no token, or not quite, is refused without repeating it', async () => {
  const token = await open().create(NODE);
  const [prefix, secret, pin] = token.split('.') as [string, string, string];
  // The last character of 43 has two bits that say nothing; set, they would be a second spelling of one token.
  const otherSpelling = `${secret.slice(0, -1)}${String.fromCharCode(secret.charCodeAt(42) + 1)}`;
  const wrong = [
    '',
    'hello',
    secret,
    token.slice(0, -1),
    `${token}x`,
    `${prefix}.${secret}`,
    `${prefix}.${otherSpelling}.${pin}`,
    token.replace('-1.', '-2.'),
  ];
  for (const text of wrong) {
    assert.throws(
      () => parseJoinToken(text),
      (thrown: Error & { code: string }) => thrown.code === 'WEFT_CERTS_TOKEN' && !thrown.message.includes(secret.slice(0, 10)),
    );
  }
  await open().redeem(token);
});

test('a foreign token is refused', async () => {
  const token = await open().create(NODE);
  directory = join(home, 'another');
  await open().create(NODE);
  await assert.rejects(open().redeem(token), { code: 'WEFT_CERTS_TOKEN' });
});

test('a revoked token lets nobody in', async () => {
  const tokens = open();
  const token = await tokens.create(NODE);
  const [grant] = await tokens.list();
  assert.equal(await tokens.revoke(grant?.id ?? ''), true);
  assert.equal(await tokens.revoke(grant?.id ?? ''), false);
  await assert.rejects(tokens.redeem(token), { code: 'WEFT_CERTS_TOKEN' });
});

test('bad requests for tokens are refused', async () => {
  const tokens = open();
  await assert.rejects(tokens.create({ ...NODE, node: '../x' }), { code: 'WEFT_CERTS_NODE_NAME' });
  for (const ttlSeconds of [0, -1, Number.NaN, 31 * 24 * 3600])
    await assert.rejects(tokens.create({ ...NODE, ttlSeconds }), { code: 'WEFT_CERTS_TOKEN' });
  await assert.rejects(tokens.create({ ...NODE, namespaces: ['a/b'] }), { code: 'WEFT_CERTS_TOKEN' });
});

test('there are at most a thousand; expired ones make room', async () => {
  const tokens = new JoinTokens({ directory: null, now: () => now, roots: () => roots, onRedeem: () => {}, onRedeemed: () => {} });
  for (let i = 0; i < 1000; i++) await tokens.create(NODE);
  await assert.rejects(tokens.create(NODE), { code: 'WEFT_CERTS_TOO_MANY' });
  now += 600_000;
  await tokens.create(NODE);
  assert.equal((await tokens.list()).length, 1);
});
