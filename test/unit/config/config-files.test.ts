import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { ConfigFiles } from '../../../src/config/config-files.ts';
import { parseResources } from '../../../src/config/parse-resources.ts';

/** A file with a Namespace of each name; '!' stands for a broken document. */
function write(files: ConfigFiles, file: string, names: string): void {
  const documents = [...names].map((name) =>
    name === '!' ? 'kind: Broken' : `apiVersion: v1\nkind: Namespace\nmetadata: {name: ${name}}`,
  );
  files.parsed(file, parseResources(documents.join('\n---\n'), file));
}

function names(files: ConfigFiles): string {
  return files.state.resources.map(({ metadata }) => metadata.name).join('');
}

function codes(files: ConfigFiles): string[] {
  return files.state.problems.map(({ file, code }) => `${file} ${code}`);
}

const NAMESPACE = 'apiVersion: v1\nkind: Namespace\nmetadata: {name: x}';
/** A DENY policy `p`. */
const deny = (rules: string) =>
  `apiVersion: weft.dev/v1\nkind: AuthorizationPolicy\nmetadata: {name: p}\nspec: {action: DENY, rules: [${rules}]}`;
const GOOD = '{to: [{operation: {methods: [GET]}}]}';
const BAD = '{to: [{operation: {method: [GET]}}]}';

/** Puts these documents in force as file `a`. */
function put(files: ConfigFiles, ...documents: string[]): void {
  files.parsed('a', parseResources(documents.join('\n---\n'), 'a'));
  files.settle([]);
}

/** The methods of each rule in force. */
function rules(files: ConfigFiles): string[] {
  const { resources } = files.state;
  return resources.flatMap((resource) =>
    resource.kind === 'AuthorizationPolicy' ? resource.spec.rules.map(({ to }) => to[0]?.methods?.join() ?? 'everything') : [],
  );
}

const consequences = (files: ConfigFiles): (string | undefined)[] => files.state.problems.map(({ consequence }) => consequence);

describe('the last good state', () => {
  it('of a broken file stays in force as a whole', () => {
    const files = new ConfigFiles();
    write(files, 'a', 'xy');
    write(files, 'b', 'z');
    assert.equal(files.settle([]), true);
    write(files, 'a', 'xw!');
    assert.equal(files.settle([]), true);
    assert.equal(names(files), 'xyz');
    assert.deepEqual(codes(files), ['a WEFT_CONFIG_MISSING_FIELD']);
    write(files, 'a', 'w');
    files.settle([]);
    assert.equal(names(files), 'wz');
    assert.deepEqual(codes(files), []);
  });

  it('of a file that was never good is nothing', () => {
    const files = new ConfigFiles();
    write(files, 'a', 'x!');
    assert.equal(files.settle([]), true);
    assert.equal(names(files), '');
    assert.equal(files.state.problems.length, 1);
  });

  it('goes with its file', () => {
    const files = new ConfigFiles();
    write(files, 'a', 'x');
    files.settle([]);
    write(files, 'a', '!');
    files.settle([]);
    files.removed('a');
    assert.equal(files.settle([]), true);
    assert.equal(names(files), '');
    assert.deepEqual(codes(files), []);
  });

  it('is in the order of file names, and unchanged files are no change', () => {
    const files = new ConfigFiles();
    write(files, 'b', 'x');
    write(files, 'a', 'yz');
    files.settle([]);
    assert.equal(names(files), 'yzx');
    const before = files.state.resources;
    assert.equal(files.settle([]), false);
    assert.equal(files.state.resources, before);
  });
});

describe('a file whose only problems are single rules', () => {
  it('is in force with what fails closed in their place, where there is no good state', () => {
    const files = new ConfigFiles();
    put(files, NAMESPACE, deny(`${GOOD}, ${BAD}`));
    assert.equal(names(files), 'xp');
    assert.deepEqual(rules(files), ['GET', 'everything']);
    assert.deepEqual(consequences(files), ['the rule denies everything']);
    // The next such text replaces it; one that is broken does not; a good one does.
    put(files, deny(`${BAD}, ${GOOD}`));
    assert.deepEqual(rules(files), ['everything', 'GET']);
    put(files, deny('{to: [{operation: {methods: [PUT]}}]}'), 'kind: Broken');
    assert.deepEqual(rules(files), ['everything', 'GET']);
    assert.deepEqual(codes(files), ['a WEFT_CONFIG_MISSING_FIELD']);
    put(files, deny(GOOD));
    assert.deepEqual([rules(files), codes(files)], [['GET'], []]);
  });

  it('does not replace a good state', () => {
    const files = new ConfigFiles();
    put(files, deny(GOOD));
    put(files, deny(`${GOOD}, ${BAD}`));
    assert.deepEqual(rules(files), ['GET']);
    assert.deepEqual(codes(files), ['a WEFT_CONFIG_UNKNOWN_FIELD']);
    assert.deepEqual(consequences(files), [undefined]);
    put(files, deny(`${BAD}, ${BAD}`));
    assert.deepEqual(rules(files), ['GET']);
    files.removed('a');
    put(files, deny(BAD));
    assert.deepEqual(rules(files), ['everything']);
  });

  it('is not in force when something else in it is wrong', () => {
    const files = new ConfigFiles();
    put(files, deny(BAD), 'kind: Broken');
    assert.equal(names(files), '');
    assert.deepEqual(consequences(files), [undefined, undefined]);
  });
});

describe('a resource in two files', () => {
  it('belongs to the first by name, and the other file is refused with both places', () => {
    const files = new ConfigFiles();
    write(files, 'b', 'xz');
    write(files, 'a', 'yx');
    files.settle([]);
    assert.equal(names(files), 'yx');
    assert.deepEqual(
      files.state.problems.map(({ file, line, message }) => `${file}:${line}: ${message}`),
      ['b:1: Namespace x is already at a:5'],
    );
  });

  it('stays where it is in force when another file claims it', () => {
    const files = new ConfigFiles();
    write(files, 'b', 'x');
    files.settle([]);
    write(files, 'a', 'xy');
    files.settle([]);
    assert.equal(names(files), 'x');
    assert.deepEqual(codes(files), ['a WEFT_CONFIG_DUPLICATE_RESOURCE']);
    // It is tried again once the other file gives it up.
    write(files, 'b', 'z');
    files.settle([]);
    assert.equal(names(files), 'xyz');
    assert.deepEqual(codes(files), []);
  });

  it('moves from one file to another in one step', () => {
    const files = new ConfigFiles();
    write(files, 'a', 'xy');
    write(files, 'b', 'z');
    files.settle([]);
    write(files, 'a', 'y');
    write(files, 'b', 'zx');
    files.settle([]);
    assert.equal(names(files), 'yzx');
    assert.deepEqual(codes(files), []);
  });

  it('does not move to a file when the one that gives it up is refused', () => {
    const files = new ConfigFiles();
    write(files, 'a', 'p');
    write(files, 'b', 'x');
    write(files, 'c', 'q');
    files.settle([]);
    // a takes x from b; but b's new text takes q from c, which keeps it, so b keeps x and a is refused too.
    write(files, 'a', 'px');
    write(files, 'b', 'q');
    files.settle([]);
    assert.equal(names(files), 'pxq');
    assert.deepEqual(codes(files), ['a WEFT_CONFIG_DUPLICATE_RESOURCE', 'b WEFT_CONFIG_DUPLICATE_RESOURCE']);
  });

  it('never comes to be in force, whatever happens', () => {
    const step = fc.record({
      file: fc.constantFrom('a', 'b', 'c', 'd'),
      names: fc.option(fc.string({ unit: fc.constantFrom(...'uvwxy!'), maxLength: 3 })),
      settle: fc.boolean(),
    });
    const property = fc.property(fc.array(step, { maxLength: 20 }), (steps) => {
      const files = new ConfigFiles();
      const written = new Map<string, string>();
      for (const { file, names: text, settle } of steps) {
        if (text === null) files.removed(file);
        else write(files, file, text);
        if (text === null) written.delete(file);
        else written.set(file, text);
        if (!settle) continue;
        files.settle([]);
        const inForce = [...names(files)];
        assert.equal(new Set(inForce).size, inForce.length, 'no resource twice');
        const whole = [...written].every(([name, text]) => {
          const mine = files.state.resources
            .filter(({ location }) => location.file === name)
            .map(({ metadata }) => metadata.name)
            .join('');
          return mine === text || files.state.problems.some((problem) => problem.file === name);
        });
        assert.ok(whole, 'a file is in force as written, or there is a problem');
        for (const { location } of files.state.resources) assert.ok(written.has(location.file), 'no resource without its file');
      }
    });
    fc.assert(property, { numRuns: 300 });
  });
});
