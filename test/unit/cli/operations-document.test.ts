import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import {
  bundleRefreshFailures,
  bundleSequences,
  clockSkew,
  configurationProblems,
  kernelEvents,
  svidExpiry,
  svidRequests,
  workloadApiRefusals,
} from '../../../src/agent/metrics.ts';
import { COUNTER_FAMILIES } from '../../../proxy/telemetry/counter-table.ts';
import { IssuanceCounts } from '../../../certs/issuance/issuance-counts.ts';
import { authorityMetrics } from '../../../src/metrics/authority-metrics.ts';
import { runCli } from '../../../src/cli/program.ts';
import { RecordedTerminal } from './recorded-terminal.ts';

const document = readFileSync(new URL('../../../docs/operations.md', import.meta.url), 'utf8');

test('docs/operations.md names every flag of weft agent, and no other', async () => {
  const terminal = new RecordedTerminal();
  await runCli(['agent', '--help'], terminal);
  const flags = Array.from(terminal.output.matchAll(/^ {2}(?:-\w, )?(--[a-z-]+)/gm), ([, flag = '']) => flag).filter(
    (flag) => flag !== '--help',
  );
  const section = document.slice(document.indexOf('## The agent'), document.indexOf('Two agents on one host'));
  const documented = Array.from(section.matchAll(/^\| (`--.*?) \|/gm), ([, cell = '']) => cell).flatMap(
    (cell) => cell.match(/--[a-z-]+/g) ?? [],
  );
  assert.ok(flags.length > 15);
  assert.deepEqual(documented.toSorted(), flags.toSorted());
});

test('docs/operations.md names every metric of ours, and no other', () => {
  const nothing = { trustDomain: '', sequence: '0', slots: [], rotation: null, nodes: [], warnings: [] };
  const ofMain = [
    kernelEvents(new Map()),
    svidExpiry([], 0),
    configurationProblems(new Map()),
    bundleSequences([]),
    bundleRefreshFailures([]),
    clockSkew(null),
    workloadApiRefusals({}),
    ...authorityMetrics({ ...nothing, counts: { issued: { x509: 0, jwt: 0 }, joins: 0, refused: new IssuanceCounts().refused } }, 0),
    ...svidRequests({ issued: 0, renewed: 0, failed: {} }),
  ];
  const names = [...COUNTER_FAMILIES, ...ofMain].map(({ name }) => name);
  assert.deepEqual(
    names.filter((name) => !document.includes(`\`${name}\``)),
    [],
  );
  const documented = Array.from(document.matchAll(/^\| (`weft_.*?) \|/gm), ([, cell = '']) => cell).flatMap(
    (cell) => cell.match(/weft_[a-z_]+/g) ?? [],
  );
  assert.deepEqual(
    documented.filter((name) => !names.includes(name)),
    [],
  );
});
