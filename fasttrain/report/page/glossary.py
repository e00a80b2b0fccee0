"""The field's terms and papers: explained once on the page, linked where they first appear."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from markupsafe import Markup, escape


@dataclass(frozen=True)
class Paper:
    """A paper that a figure is compared with."""

    title: str
    arxiv: str

    @property
    def url(self) -> str:
        return f"https://arxiv.org/abs/{self.arxiv}"


PAPERS = {
    "WDL": Paper("Where Do Large Learning Rates Lead Us?", "2410.22113"),
    "LLR": Paper(
        "Large Learning Rates Improve Generalization: But How Large Are We Talking About?",
        "2311.11303",
    ),
    "TR": Paper(
        "Training Scale-Invariant Neural Networks on the Sphere Can Happen in Three Regimes",
        "2209.03695",
    ),
    "LWM": Paper(
        "Towards Explaining the Regularization Effect of Initial Large Learning Rate in Training "
        "Neural Networks",
        "1907.04595",
    ),
    "YLD": Paper("How Does Learning Rate Decay Help Modern Neural Networks?", "1908.01878"),
}
"""what figures call the papers, for the page and docs/figures.md"""

TERMS = {
    "PLR": "pre-training learning rate: that of the first leg, on which all others build",
    "FLR": "fine-tuning learning rate: that of a leg which starts from the end of pre-training",
    "leg": (
        "training at one learning rate, weight decay and noise, from a new network or from the "
        "end of another leg"
    ),
    "set-up": "what stages share besides learning rates, k and seed: data, network, training",
    "scale-invariant": (
        "weights whose size does not matter: a normalisation follows them, so that only their "
        "direction on a sphere is learned"
    ),
    "effective learning rate": (
        "learning rate divided by the squared norm of scale-invariant weights: what decides how "
        "far a step turns them"
    ),
    "effective gradient norm": "gradient norm times the norm of the weights it belongs to",
    "regime": (
        "what training at a constant rate on the sphere comes to: 1 convergence, 2 chaotic "
        "equilibrium (loss and gradient norm become stationary above zero), 3 divergence (a walk "
        "on the sphere at a guess's loss); within 2, fine-tuning from 2A ends in one basin at "
        "every FLR, from 2B it does not"
    ),
    "barrier": (
        "on the straight line between two end points, the largest gap between the accuracy "
        "interpolated between the two and the accuracy there; none: the two lie in one basin"
    ),
    "average": (
        "SWA (stochastic weight averaging): the mean of the weights of k checkpoints, batch norm "
        "re-estimated"
    ),
    "sample standard deviation": "over seeds, with divisor n - 1: what ± and bars show",
}
_WORDS = {
    "leg": "legs?",
    "set-up": "[Ss]et-ups?",
    "regime": "regimes?",
    "barrier": "barriers?",
    "average": "averages?|SWA",
}


@dataclass
class Links:
    """Sentences in the page's order, with a link on the first appearance of every term.

    Abbreviations of papers are links wherever they appear.
    """

    seen: set[str] = field(default_factory=set)

    def of(self, sentence: str) -> Markup:
        """The sentence, escaped, with its links."""
        return Markup("").join(self._parts(sentence))

    def _parts(self, sentence: str) -> Iterator[Markup]:
        end = 0
        for match in _PATTERN.finditer(sentence):
            yield escape(sentence[end : match.start()])
            yield self._linked(match)
            end = match.end()
        yield escape(sentence[end:])

    def _linked(self, match: re.Match[str]) -> Markup:
        word, group = match.group(), str(match.lastgroup)
        if group in PAPERS:
            paper = PAPERS[group]
            return Markup('<a href="{}" title="{}">{}</a>').format(paper.url, paper.title, word)
        term = _IDS[group]
        if term in self.seen:
            return escape(word)
        self.seen.add(term)
        return Markup('<a class="term" href="#{}">{}</a>').format(group, word)


def term_id(term: str) -> str:
    """Where the page explains a term."""
    return "term_" + re.sub(r"\W", "_", term)


_IDS = {term_id(term): term for term in TERMS}
_PATTERN = re.compile(
    "|".join(
        rf"(?P<{name}>\b(?:{words})\b)"
        for name, words in [
            *((paper, paper) for paper in PAPERS),
            *(
                (term_id(term), _WORDS.get(term, re.escape(term)))
                for term in sorted(TERMS, key=len, reverse=True)
            ),
        ]
    )
)
