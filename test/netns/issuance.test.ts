import assert from 'node:assert/strict';
import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import type { AuthorityStatusAnswer } from '../../src/model/authority-api.ts';
import { agentRunDirectory, type ExecResult, LabAgent, type LabNode } from '../kit/lab/index.ts';
import { Mesh } from '../kit/mesh.ts';
import { ownLab } from './lab-owner.ts';

const WEFT = fileURLToPath(new URL('../../src/cli/weft', import.meta.url));
const PORT = 15_012;
