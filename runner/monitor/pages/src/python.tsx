/** Python in colours, for reading: comments, strings, keywords, numbers and the names that are defined. */

const TOKEN =
  /(?<comment>#[^\n]*)|(?<string>(?:\b[rRbBuUfF]{1,2})?(?:"""[\s\S]*?(?:"""|$)|'''[\s\S]*?(?:'''|$)|"(?:\\.|[^"\\\n])*"?|'(?:\\.|[^'\\\n])*'?))|(?<=\b(?:def|class)\s+)(?<defined>\w+)|\b(?<keyword>and|as|assert|async|await|break|class|continue|def|del|elif|else|except|finally|for|from|global|if|import|in|is|lambda|match|nonlocal|not|or|pass|raise|return|try|while|with|yield|None|True|False)\b|\b(?<number>\d[\w.]*)/g;

export interface Token {
  kind: string;
  text: string;
}

/** The lines of a file, each as its coloured parts. */
export function pythonLines(source: string): Token[][] {
  const lines: Token[][] = [[]];
  const add = (kind: string, text: string) =>
    text.split("\n").forEach((part, n) => {
      if (n > 0) lines.push([]);
      if (part) lines.at(-1)?.push({ kind, text: part });
    });
  let from = 0;
  for (const found of source.matchAll(TOKEN)) {
    const [kind = ""] = Object.entries(found.groups ?? {}).find(([, text]) => text !== undefined) ?? [];
    add("", source.slice(from, found.index));
    add(kind, found[0]);
    from = found.index + found[0].length;
  }
  add("", source.slice(from));
  return lines;
}
