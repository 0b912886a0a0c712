"""LaTeX within a paragraph: commands taken off, accents put on, maths made readable."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from typing import Final

from ragdock.adapters.parsers.building import words

__all__ = ["group_end", "plain_inline", "plain_maths"]

_TOKEN: Final = re.compile(
    r"\\([a-zA-Z@]+)(\*?)|\\(.)|(\$[^$]{0,5000}\$)|([{}])|(%[^\n]*(?:\n[ \t]*)?)|(~)|(---?|``|'')",
    re.DOTALL,
)
_BRACE: Final = re.compile(r"\\.|[{}]", re.DOTALL)
_OPTION: Final = re.compile(r"[ \t]*\[[^\[\]\n]{0,300}\]")
_OPENS: Final = re.compile(r"\s*\{")
_BARE: Final = re.compile(r"\s*\\[a-zA-Z@]+")
_TYPOGRAPHY: Final = {"--": "–", "---": "—", "``": "“", "''": "”"}
_COMBINING: Final = {
    "`": "\u0300", "'": "\u0301", "^": "\u0302", "~": "\u0303", '"': "\u0308", "=": "\u0304",
    ".": "\u0307", "u": "\u0306", "v": "\u030c", "H": "\u030b", "c": "\u0327", "k": "\u0328",
    "r": "\u030a", "d": "\u0323",
}  # fmt: skip
_ACCENTED: Final = re.compile(r"\s*\{?\s*\\?([A-Za-z])\s*\}?")
_SPECIAL: Final = {
    "ss": "ß", "o": "ø", "O": "Ø", "ae": "æ", "AE": "Æ", "oe": "œ", "OE": "Œ", "aa": "å",
    "AA": "Å", "l": "ł", "L": "Ł", "i": "ı", "j": "ȷ", "S": "§", "P": "¶", "copyright": "©",
    "ldots": "…", "dots": "…", "textendash": "–", "textemdash": "—", "textbackslash": "\\",
    "euro": "€", "EUR": "€", "texteuro": "€", "pounds": "£", "textdegree": "°", "degree": "°",
    "textasciitilde": "~", "textbar": "|", "textless": "<", "textgreater": ">", "TeX": "TeX",
    "LaTeX": "LaTeX", "quad": " ", "qquad": " ", "newline": "\n", "today": "", "textregistered":
    "®", "texttrademark": "™", "dag": "†", "ddag": "‡", "textbullet": "•", "percent": "%",
}  # fmt: skip
# Commands that say nothing to a reader, with the number of arguments that go with them.
_DROPPED: Final = {
    **dict.fromkeys(words("""
        label vspace hspace includegraphics input include bibliography bibliographystyle
        usepackage documentclass pagestyle thispagestyle color hypersetup graphicspath index nocite
        phantom hphantom vphantom theoremstyle selectlanguage pagenumbering linespread textcolor
        colorbox cellcolor rowcolor cline cmidrule addbibresource usetikzlibrary lstset raisebox
        counterwithin captionsetup geometry pdfbookmark PassOptionsToPackage foreignlanguage
        """), 1),
    **dict.fromkeys(words("""
        setlength addtolength setcounter addtocounter newcommand renewcommand providecommand
        DeclareMathOperator newtheorem fontsize addcontentsline resizebox rule definecolor_
        """), 2),
    "definecolor": 3, "newenvironment": 3, "renewenvironment": 3, "multicolumn": 2, "multirow": 2,
}  # fmt: skip
_CITED: Final = words(
    """
    cite citep citet citealp citealt citeauthor citeyear parencite textcite autocite footcite ref
    eqref autoref cref Cref pageref nameref vref
    """
)

_SYMBOLS: Final[dict[str, str]] = dict(
    re.findall(
        r"(\w+)=(\S+)",
        """
        alpha=α beta=β gamma=γ delta=δ epsilon=ε varepsilon=ε zeta=ζ eta=η theta=θ vartheta=ϑ
        iota=ι kappa=κ lambda=λ mu=μ nu=ν xi=ξ pi=π rho=ρ sigma=σ tau=τ upsilon=υ phi=φ varphi=φ
        chi=χ psi=ψ omega=ω Gamma=Γ Delta=Δ Theta=Θ Lambda=Λ Xi=Ξ Pi=Π Sigma=Σ Phi=Φ Psi=Ψ Omega=Ω
        leq=≤ le=≤ geq=≥ ge=≥ neq=≠ ne=≠ approx=≈ equiv=≡ sim=∼ propto=∝ times=× cdot=· div=÷ pm=±
        mp=∓ infty=∞ sum=∑ prod=∏ int=∫ partial=∂ nabla=∇ in=∈ notin=∉ subset=⊂ subseteq=⊆ cup=∪
        cap=∩ emptyset=∅ forall=∀ exists=∃ neg=¬ land=∧ wedge=∧ lor=∨ vee=∨ to=→ rightarrow=→
        leftarrow=← Rightarrow=⇒ Leftrightarrow=⇔ iff=⇔ mapsto=↦ ldots=… cdots=… dots=… sqrt=√
        circ=∘ angle=∠ degree=° perp=⊥ mid=| ll=≪ gg=≫ ast=* star=⋆ oplus=⊕ otimes=⊗ langle=⟨
        rangle=⟩ ell=ℓ hbar=ℏ Re=ℜ Im=ℑ prime=′
        """,
    )
)
_FUNCTIONS: Final = words(
    """
    sin cos tan log ln exp min max lim sup inf det dim ker arg gcd mod bmod arcsin arccos arctan
    sinh cosh tanh Pr
    """
)
_FRACTION: Final = re.compile(r"\\[dt]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}")
_MATH_TOKEN: Final = re.compile(r"\\([a-zA-Z]+)\*?|\\(.)|[{}$]", re.DOTALL)
_MATH_NOISE: Final = re.compile(
    r"\\label\{[^{}]*\}|\\(?:left|right|big|Big|bigg|Bigg|displaystyle|textstyle|limits|nonumber"
    r"|notag|hline)(?![a-zA-Z])\.?|&|\\tag\{[^{}]*\}"
)
_LOOSE_GROUP: Final = re.compile(r"(?<![_^])\{([^{}]*)\}")
_GROUPED: Final = re.compile(r"([_^])\{([^{}\s\\]{1,3})\}")


def group_end(source: str, at: int) -> int:
    """The place after the group whose brace opens at `at`; `at + 1` if it never closes."""
    return _groups(source).get(at, at + 1)


@lru_cache(maxsize=2)
def _groups(source: str) -> dict[int, int]:
    """Where each group ends, by its opening brace: found once, because braces may be many."""
    ends: dict[int, int] = {}
    opened: list[int] = []
    for brace in _BRACE.finditer(source):
        if brace[0] == "{":
            opened.append(brace.start())
        elif brace[0] == "}" and opened:
            ends[opened.pop()] = brace.end()
    return ends


def plain_inline(source: str) -> str:
    """A stretch of text as a reader of the printed page sees it."""
    out: list[str] = []
    closers: list[str] = []
    at = 0
    while (token := _TOKEN.search(source, at)) is not None:
        out.append(source[at : token.start()])
        at = token.end()
        name, _, symbol, maths, brace, _, tie, mark = token.groups()
        if name is not None:
            at = _command(source, at, name, out, closers)
        elif symbol is not None:
            at = _symbol(source, at, symbol, out)
        elif maths is not None:
            out.append(plain_maths(maths[1:-1]))
        elif brace == "{":
            closers.append("")
        elif brace == "}":
            out.append(closers.pop() if closers else "")
        elif tie:
            out.append(" ")
        elif mark:
            out.append(_TYPOGRAPHY[mark])
    out.append(source[at:])
    lines = (" ".join(line.split()) for line in "".join(out).split("\n"))
    return " ".join(line for line in lines if line)


def _command(source: str, at: int, name: str, out: list[str], closers: list[str]) -> int:
    """Write what the command stands for; returns where reading goes on."""
    if name in _SPECIAL:
        out.append(_SPECIAL[name])
        # TeX swallows the space after a command; one is kept where words would run together.
        return at + 1 if source[at : at + 1] == " " and len(_SPECIAL[name]) == 1 else at
    if name in _COMBINING and (letter := _ACCENTED.match(source, at)):
        out.append(unicodedata.normalize("NFC", letter[1] + _COMBINING[name]))
        return letter.end()
    option = _OPTION.match(source, at)
    while option is not None:
        at = option.end()
        option = _OPTION.match(source, at)
    if name in _DROPPED:
        for _ in range(_DROPPED[name]):
            at = _skip_argument(source, at)
        return at
    opens = _OPENS.match(source, at)
    if opens and name in _CITED:
        out.append("[")
        closers.append("]")
        return opens.end()
    if opens and name == "footnote":
        out.append(" (")
        closers.append(")")
        return opens.end()
    if opens and name == "href":
        return group_end(source, opens.end() - 1)
    if not opens:
        out.append(_SYMBOLS.get(name, " "))
    return at


def _skip_argument(source: str, at: int) -> int:
    """Past a group, with the options before it, or past a bare command as in `\\newcommand\\x`."""
    option = _OPTION.match(source, at)
    at = option.end() if option else at
    opens = _OPENS.match(source, at)
    if opens:
        return group_end(source, opens.end() - 1)
    bare = _BARE.match(source, at)
    return bare.end() if bare else at


def _symbol(source: str, at: int, symbol: str, out: list[str]) -> int:
    letter = _ACCENTED.match(source, at) if symbol in _COMBINING else None
    if letter:
        out.append(unicodedata.normalize("NFC", letter[1] + _COMBINING[symbol]))
        return letter.end()
    if symbol in "%&#_{}$":
        out.append(symbol)
    elif symbol in "()":
        pass  # Maths set off by \( and \); what is within is read as text.
    elif symbol not in "-/@":
        out.append(" ")
    return at


def plain_maths(source: str) -> str:
    """A formula with Unicode's letters and signs, fractions with a slash; structure stays TeX."""
    source = _MATH_NOISE.sub(" ", source)
    for _ in range(4):
        source, n = _FRACTION.subn(r"(\1)/(\2)", source)
        if not n:
            break

    def sign(match: re.Match[str]) -> str:
        name = match[1]
        if name:
            symbol = _SYMBOLS.get(name)
            if symbol is not None:
                return symbol
            return f" {name} " if name in _FUNCTIONS else " "
        if match[2]:
            return str(match[2]) if match[2] in "%&#_{}$" else " "
        return str(match[0])

    source = _GROUPED.sub(r"\1\2", _MATH_TOKEN.sub(sign, source)).replace("$", "")
    source = _LOOSE_GROUP.sub(r"\1", source)
    return " ".join(source.split())
