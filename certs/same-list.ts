/** Whether two lists hold the same items in the same order. `same` compares two of them; default: Object.is. */
export function sameList<Item>(a: readonly Item[], b: readonly Item[], same: (a: Item, b: Item) => boolean = Object.is): boolean {
  return a.length === b.length && a.every((item, index) => same(item, b[index] as Item));
}
