import type { Alert, AlertFact } from '../core/ports/alert.ts';
import { printable } from '../core/text.ts';

/** Bounds for people's eyes; an agent chose some of the text, and each receiver has limits of its own. */
const FACTS_MAX = 24;
const NAME_CHARS_MAX = 40;
const VALUE_CHARS_MAX = 500;

/** Printable, one line, and never longer than `charsMax` whatever escaping does to it. */
export function oneLine(text: string, charsMax: number): string {
  const shown = printable(text, charsMax);
  if (shown.length <= charsMax) return shown;
  const cut = shown.slice(0, charsMax - 1);
  // Half a surrogate pair is no character.
  return `${/[\uD800-\uDBFF]$/.test(cut) ? cut.slice(0, -1) : cut}…`;
}

export function boundedFacts(alert: Alert): readonly AlertFact[] {
  return alert.facts.slice(0, FACTS_MAX).map(({ name, value }) => ({
    name: oneLine(name, NAME_CHARS_MAX),
    value: oneLine(value, VALUE_CHARS_MAX),
  }));
}

/** The moment that the body gives, or null when it has none. */
export function timestampOf(alert: Alert): string | null {
  try {
    const { timestamp } = JSON.parse(alert.body) as { readonly timestamp?: unknown };
    return typeof timestamp === 'string' && !Number.isNaN(Date.parse(timestamp)) ? timestamp : null;
  } catch {
    return null;
  }
}
