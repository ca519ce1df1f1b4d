const BLOCK_BYTES = 512;
const SIZE_AT = 124;
const SIZE_CHARS = 12;
const TYPE_AT = 156;

/**
 * The content of the regular file that an archive of one path holds; null when the path is a folder, a link or
 * anything else. Headers of the pax format may stand before it. The archive is the engine's, what it holds an image's.
 */
export function onlyFileIn(archive: Buffer): Buffer | null {
  for (let at = 0; at + BLOCK_BYTES <= archive.length;) {
    const type = String.fromCharCode(archive[at + TYPE_AT] ?? 0);
    const size = Number.parseInt(archive.toString('latin1', at + SIZE_AT, at + SIZE_AT + SIZE_CHARS).trim(), 8);
    if (!Number.isSafeInteger(size) || size < 0) return null;
    const start = at + BLOCK_BYTES;
    if (type === '0' || type === '\0') {
      return start + size <= archive.length ? archive.subarray(start, start + size) : null;
    }
    if (type !== 'x' && type !== 'g') return null;
    at = start + Math.ceil(size / BLOCK_BYTES) * BLOCK_BYTES;
  }
  return null;
}
