import { setTimeout as sleep } from 'node:timers/promises';
import type { Command } from 'commander';
import type { AuthorityStatusAnswer, MaterialRequest, SlotAnswer } from '../../model/authority-api.ts';
import type { AdminClient } from '../admin-client.ts';
import { authorityText, rotationLine } from '../authority-text.ts';
import type { CommandContext } from '../command-context.ts';
import type { Terminal } from '../terminal.ts';
import { authorityClient, type MaterialFlags, readMaterial, type SocketFlags, withMaterialFlags, withSocketFlags } from './ca-flags.ts';

interface RotateFlags extends SocketFlags, MaterialFlags {
  readonly wait?: true;
}

const POLL_MS = 500;

/** Adds `weft ca rotate`. */
export function addCaRotateCommand(ca: Command, { terminal }: CommandContext): void {
  withMaterialFlags(withSocketFlags(ca.command('rotate')))
    .summary('replace the root, under traffic')
    .description(
      'Replaces the root of the trust domain: puts a new one into the bundle, lets it sign once every node verifies with it, and takes the old ' +
        'one out once nothing it signed is valid. Goes on by itself, across restarts too.',
    )
    .option('--wait', 'return when it is over: after the life of an SVID')
    .addHelpText(
      'after',
      `
Examples:
  weft ca rotate                                  a new root of the authority's own
  weft ca rotate --wait
  weft ca rotate --cert new.pem --key new.key     to an authority of yours`,
    )
    .action(async (flags: RotateFlags) => {
      const authority = authorityClient(flags);
      const request: MaterialRequest = { material: await readMaterial(flags) };
      const status = await authority.post<AuthorityStatusAnswer>('/v1/authority/rotate', request);
      await followRotation(authority, status, flags.wait === true, terminal);
    });
}

/** Says how a rotation goes, each change in one line; until it is over, or just once. */
export async function followRotation(
  authority: AdminClient,
  started: AuthorityStatusAnswer,
  wait: boolean,
  terminal: Terminal,
  pollMs: number = POLL_MS,
): Promise<void> {
  let status = started;
  let said = '';
  for (;;) {
    const line = status.rotation === null ? doneLine(status) : rotationLine(status.rotation);
    if (line !== said) terminal.out(`${line}\n`);
    said = line;
    if (!wait || status.rotation === null) return;
    await sleep(pollMs);
    status = await authority.get<AuthorityStatusAnswer>('/v1/authority');
  }
}

function doneLine({ slots }: AuthorityStatusAnswer): string {
  return `rotation: done; ${slots.find(({ state }) => state === 'active')?.id} signs, and the old root is out of the bundle`;
}

/** Adds `weft ca prepare`, `activate`, `taint` and `revoke`: a rotation step by step, and by force. */
export function addCaStepCommands(ca: Command, { terminal }: CommandContext): void {
  withMaterialFlags(withSocketFlags(ca.command('prepare')))
    .summary('put a new root into the bundle, which signs nothing yet')
    .addHelpText('after', '\nExample:\n  weft ca prepare && weft ca status')
    .action(async (flags: SocketFlags & MaterialFlags) => {
      const request: MaterialRequest = { material: await readMaterial(flags) };
      const slot = await authorityClient(flags).post<SlotAnswer>('/v1/authority/prepare', request);
      terminal.out(`${slot.id}\n`);
      terminal.err('activate it once every node has acknowledged the bundle: see `weft ca status`\n');
    });
  const steps = [
    ['activate', 'let a prepared authority sign', 'Nodes that do not have its root yet refuse what it signs.'],
    ['taint', 'have every SVID of an authority replaced now', 'They still verify. The authority must not be the active one.'],
    ['revoke', 'trust nothing that an authority has signed', 'Connections with its SVIDs end. It must be tainted before.'],
  ] as const;
  for (const [verb, summary, note] of steps) {
    const command = withSocketFlags(ca.command(verb));
    if (verb === 'activate')
      command.option('--force', 'also while nodes do not have its root: they will refuse what it signs until they do');
    command
      .summary(summary)
      .description(`${summary.charAt(0).toUpperCase()}${summary.slice(1)}. ${note}`)
      .argument('<authority>', 'its id, as `weft ca status` has it')
      .addHelpText('after', `\nExample:\n  weft ca ${verb} 3f9c01d2ab45`)
      .action(async (id: string, flags: SocketFlags & { readonly force?: true }) => {
        const path = `/v1/authority/slots/${encodeURIComponent(id)}/${verb}`;
        terminal.out(authorityText(await authorityClient(flags).post<AuthorityStatusAnswer>(path, { force: flags.force === true })));
      });
  }
}
