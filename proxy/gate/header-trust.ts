import type { RequestHead } from '../../src/model/request-gate.ts';
import { HeaderDraft } from './header-draft.ts';
import { foldedName } from './header-fields.ts';

const OWN_PREFIX = 'x-weft-';
const CLIENT_CERTIFICATE = 'x-forwarded-client-cert';
export const FORWARDED_FOR = 'x-forwarded-for';

/**
 * What has to change in the headers of a request because a client may not say it: `x-forwarded-client-cert` and all of `x-weft-*` go, since
 * they speak for the mesh; and an X-Forwarded-For gets the direct peer's address appended, so that its last entry is true. Where there is no
 * X-Forwarded-For none is made: the application sees the real client by getpeername(), and in the usual case no byte of the head has to be
 * rewritten. With underscores, as CGI-like applications read them too, all of these go.
 *
 * @param peer address of the direct peer
 * @returns null when all may stay as it is
 */
export function distrust(head: RequestHead, peer: string): HeaderDraft | null {
  if (head.hasTrustHeaders === false) return null;
  let draft: HeaderDraft | null = null;
  for (const [name] of head.headers()) {
    if (name === FORWARDED_FOR) {
      draft ??= new HeaderDraft();
      if (draft.remove.includes(FORWARDED_FOR)) continue;
      // One field, though several came: many an application reads but the first.
      draft.replace(FORWARDED_FOR, `${head.header(FORWARDED_FOR).join(', ')}, ${peer}`);
      continue;
    }
    const folded = foldedName(name);
    if (folded === CLIENT_CERTIFICATE || folded === FORWARDED_FOR || folded.startsWith(OWN_PREFIX)) {
      draft ??= new HeaderDraft();
      draft.drop(name);
    }
  }
  return draft;
}
