/**
 * Text that an agent chose is hostile wherever it is shown: it may hold terminal escapes, newlines that fake a log
 * line, bidirectional overrides, or a megabyte of nothing.
 */
const SHOWN_CHARS_MAX = 256;

/** One printable line of at most `charsMax` characters: control, format and lone-surrogate characters become `\u{…}`. */
export function printable(text: string, charsMax: number = SHOWN_CHARS_MAX): string {
  const cut = text.length > charsMax ? text.slice(0, charsMax) : text;
  const escaped = cut
    .toWellFormed()
    .replace(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Co}\uFFFD]/gu, (char) => `\\u{${(char.codePointAt(0) ?? 0).toString(16)}}`);
  return text.length > charsMax ? `${escaped}… (${text.length} characters)` : escaped;
}

/** The known word nearest to a mistyped one, or null when none is near (edit distance at most a third of the word). */
export function nearest(word: string, known: readonly string[]): string | null {
  let best: string | null = null;
  let bestDistance = Math.max(1, Math.floor(word.length / 3)) + 1;
  if (word.length > 64) return null;
  for (const candidate of known) {
    const distance = editDistance(word.toLowerCase(), candidate.toLowerCase());
    if (distance < bestDistance) {
      best = candidate;
      bestDistance = distance;
    }
  }
  return best;
}

function editDistance(left: string, right: string): number {
  let previous = Array.from({ length: right.length + 1 }, (_, index) => index);
  for (let row = 1; row <= left.length; row += 1) {
    const current = [row];
    for (let column = 1; column <= right.length; column += 1) {
      const swap = (previous[column - 1] ?? 0) + (left[row - 1] === right[column - 1] ? 0 : 1);
      current.push(Math.min(swap, (previous[column] ?? 0) + 1, (current[column - 1] ?? 0) + 1));
    }
    previous = current;
  }
  return previous[right.length] ?? 0;
}
