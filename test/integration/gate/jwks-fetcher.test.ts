import assert from 'node:assert/strict';
import { createServer, type RequestListener } from 'node:http';
import { createServer as createHttpsServer } from 'node:https';
import { describe, it } from 'node:test';
import { createJwksFetcher, type JwksFetcherOptions } from '../../../src/agent/jwks-fetcher.ts';
import { isFetchable } from '../../../src/config/fetchable-address.ts';
import { forge, forgeRoot } from '../../unit/certs/forge.ts';
import { listen } from './gate-world.ts';

async function fetching(listener: RequestListener, options: JwksFetcherOptions = {}, path = '/keys'): Promise<string> {
  const server = createServer(listener);
  const port = await listen(server);
  try {
    return await createJwksFetcher({ allows: () => true, ...options })(`http://127.0.0.1:${port}${path}`);
  } finally {
    server.closeAllConnections();
    server.close();
  }
}

const REFUSED = { code: 'WEFT_AGENT_JWKS' };

function redirecting(location: string): RequestListener {
  return (request, response) => {
    if (request.url === '/keys') response.writeHead(302, { location }).end();
    else response.end('moved');
  };
}

function cut(...[, response]: Parameters<RequestListener>): void {
  response.writeHead(200, { 'content-length': '100' });
  response.write('{');
  setImmediate(() => response.destroy());
}

function slow(...[, response]: Parameters<RequestListener>): void {
  response.write('{');
}

describe('fetching keys', () => {
  it('returns the document', async () => {
    assert.equal(await fetching((_, response) => response.end('{"keys":[]}')), '{"keys":[]}');
  });

  it('follows redirects to the same origin only, and not for ever', async () => {
    assert.equal(await fetching(redirecting('/other')), 'moved');
    for (const location of [
      'http://localhost/other',
      'http://127.0.0.1:1/keys',
      '//169.254.169.254/latest',
      'file:///etc/passwd',
      'https://127.0.0.1/',
      'http://u:p@127.0.0.1/',
    ]) {
      await assert.rejects(fetching(redirecting(location)), REFUSED, location);
    }
    await assert.rejects(fetching(redirecting('/keys')), REFUSED);
    let asked = 0;
    const other = createServer((_, response) => {
      asked++;
      response.end('{"keys":[]}');
    });
    const port = await listen(other);
    await assert.rejects(fetching(redirecting(`http://127.0.0.1:${port}/keys`)), { code: 'WEFT_AGENT_JWKS', message: /another origin/ });
    assert.equal(asked, 0);
    other.close();
  });

  it('refuses other answers, too long ones, cut ones and none in time', async () => {
    await assert.rejects(
      fetching((_, response) => response.writeHead(404).end('{"keys":[]}')),
      REFUSED,
    );
    await assert.rejects(
      fetching((_, response) => response.end(Buffer.alloc(1024 * 1024 + 1, 'x'))),
      REFUSED,
    );
    await assert.rejects(
      fetching((_, response) => response.end(Buffer.from([0xff]))),
      REFUSED,
    );
    await assert.rejects(fetching(cut), REFUSED);
    await assert.rejects(
      fetching(() => {}, { timeoutMs: 50 }),
      { code: 'WEFT_AGENT_JWKS', message: /no answer within 50 ms/ },
    );
    await assert.rejects(fetching(slow, { timeoutMs: 50 }), REFUSED);
  });

  it('reaches nothing of the node itself, by address or by name', async () => {
    let asked = 0;
    const server = createServer((_, response) => {
      asked++;
      response.end();
    });
    const port = await listen(server);
    for (const host of ['127.0.0.1', '127.1', '2130706433', '0x7f.1', 'localhost', '[::1]', '[::ffff:127.0.0.1]', '0.0.0.0', '[::]']) {
      await assert.rejects(
        createJwksFetcher()(`http://${host}:${port}/`),
        { code: 'WEFT_AGENT_JWKS', message: /its address is not one/ },
        host,
      );
    }
    assert.equal(asked, 0);
    server.close();
  });

  it('knows which addresses keys may come from', () => {
    for (const address of ['10.0.0.1', '192.168.1.1', '100.64.0.1', '8.8.8.8', 'fd00::1', '2001:db8::1', '::ffff:10.0.0.1']) {
      assert.ok(isFetchable(address), address);
    }
    for (const address of [
      '127.0.0.1',
      '127.255.0.1',
      '0.0.0.0',
      '169.254.169.254',
      '168.63.129.16',
      '100.100.100.200',
      '224.0.0.1',
      '255.255.255.255',
      '::',
      '::1',
      '::127.0.0.1',
      '::ffff:127.0.0.1',
      '::ffff:169.254.169.254',
      'fe80::1',
      'fe80::1%eth0',
      'ff02::1',
      'fd00:ec2::254',
      '64:ff9b::7f00:1',
      '2002:7f00:1::',
      'localhost',
      '',
    ]) {
      assert.ok(!isFetchable(address), address);
    }
  });

  it('verifies an https endpoint, also where an environment variable has Node verify nothing', async () => {
    const root = await forgeRoot();
    const { pem, privateKey } = await forge({ issuer: root, uris: [], otherNames: [{ type: 'ip', value: '127.0.0.1' }] });
    const server = createHttpsServer({ cert: pem, key: privateKey }, (_, response) => response.end('{"keys":[]}'));
    const url = `https://127.0.0.1:${await listen(server)}/`;
    process.env['NODE_TLS_REJECT_UNAUTHORIZED'] = '0';
    try {
      await assert.rejects(createJwksFetcher({ allows: () => true })(url), REFUSED);
      assert.equal(await createJwksFetcher({ allows: () => true, roots: root.pem })(url), '{"keys":[]}');
    } finally {
      delete process.env['NODE_TLS_REJECT_UNAUTHORIZED'];
      server.closeAllConnections();
      server.close();
    }
  });

  it('fetches by http and https alone', async () => {
    for (const uri of ['file:///etc/passwd', 'ftp://issuer.example/', 'issuer.example/keys', '', 'https://u:p@issuer.example/']) {
      await assert.rejects(createJwksFetcher()(uri), REFUSED, uri);
    }
  });
});
