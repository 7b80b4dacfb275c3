const LITERAL = /^[a-zA-Z0-9\-._~%!$&'()+,;:@=]+$/;

/**
 * Why a path with braces is not a path template as Istio has them, as the end of a sentence about the path; null when it is one. `{*}` stands for one
 * segment, `{**}` for any number of them, each alone between two slashes and `{**}` after every other; the rest is literal.
 */
export function refusedTemplate(path: string): string | null {
  if (!path.startsWith('/')) return 'is a path template that does not start with /';
  const inner = path.slice(1).replace(/\/$/, '');
  let ended = false;
  for (const segment of inner.split('/')) {
    if (segment === '{*}' || segment === '{**}') {
      if (ended) return 'has another operator after {**}';
      ended = segment === '{**}';
    } else if (segment.includes('{') || segment.includes('}')) {
      return 'has braces that are not {*} or {**} alone between two slashes';
    } else if (!LITERAL.test(segment)) {
      if (segment === '') return 'has an empty segment';
      return segment.includes('*') ? 'mixes a * with {*} or {**}' : 'has characters that a path template cannot have';
    }
  }
  return null;
}
