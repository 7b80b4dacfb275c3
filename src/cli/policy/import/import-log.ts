import type { FieldPath } from '../../../config/config-problem.ts';
import { fieldText } from '../../../config/config-problem.ts';
import type { WrittenResource } from '../policy-places.ts';

/** Something that a user of an import must know. */
export interface ImportRemark {
  /** `left-out`: it was not imported. `note`: it was, and means something a little different here. */
  readonly kind: 'left-out' | 'note';
  readonly file: string;
  readonly line: number;
  readonly column: number;
  readonly field: string;
  readonly message: string;
}

/** What an import could not do, in the order it was found. */
export class ImportLog {
  readonly remarks: ImportRemark[] = [];

  add(kind: ImportRemark['kind'], resource: WrittenResource, path: FieldPath, message: string): void {
    const { line, column } = resource.locate(path);
    const remark = { kind, file: resource.file, line, column, field: fieldText(path), message };
    if (!this.remarks.some((known) => known.line === line && known.message === message && known.field === remark.field)) {
      this.remarks.push(remark);
    }
  }

  /** How many parts were left out. */
  get leftOut(): number {
    return this.remarks.filter(({ kind }) => kind === 'left-out').length;
  }
}
