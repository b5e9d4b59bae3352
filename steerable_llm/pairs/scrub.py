"""Taking personal data out of logged answers, the same value by the same placeholder everywhere.

Presidio's recognisers find values by pattern and checksum, over a blank spaCy pipeline, so that no
model is needed and none is downloaded. They do not know names of people: those need a model.

A value found in one text of the log's entry is replaced in all of them, however the surrounding
words are, so that what an answer took from a passage is still found there. Presidio's own
anonymiser works text by text, which would lose that.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from functools import cached_property
from typing import Any

from steerable_llm.errors import from_extra
from steerable_llm.logs.answers import LoggedAnswer, Passage
from steerable_llm.pairs.pair import Edit
from steerable_llm.pairs.pairing import Draft

#: What is looked for.
ENTITIES = (
    "CREDIT_CARD",
    "CRYPTO",
    "EMAIL_ADDRESS",
    "IBAN_CODE",
    "IP_ADDRESS",
    "MAC_ADDRESS",
    "PHONE_NUMBER",
    "UK_NHS",
    "US_SSN",
)
# What may stand beside question and answer.
_BESIDE = ("correction", "reference", "comment")
#: A recogniser's score from which a value counts; weak patterns reach it only beside their words.
SCORE = 0.35


class Scrubber:
    """Replace personal data by placeholders such as ``<EMAIL_ADDRESS_1>``.

    One scrubber remembers its values: a person's address is one placeholder in the whole log, and
    two people's are two.

    Attributes:
        found: How many different values were found, by kind.
    """

    def __init__(self) -> None:
        """Load the recognisers.

        Raises:
            MissingExtraError: Presidio-analyzer is not installed.
        """
        self.found: Counter[str] = Counter()
        self._placeholders: dict[str, str] = {}
        self._analyzer  # noqa: B018  (a missing package shows at once)

    def scrub(self, draft: Draft) -> Draft:
        """Return a draft without personal data in its question, prompt, passages and answers.

        What images show stays as it is.
        """
        answer = draft.answer
        shown: list[str] = []

        def read(text: str) -> str:
            shown.append(text)
            return text

        for message in answer.messages:
            message.rewritten(read)
        texts = [answer.question, *(passage.text for passage in answer.passages), *shown]
        texts += filter(None, [answer.answer, draft.good, *(getattr(answer, n) for n in _BESIDE)])
        edit = draft.edit
        # What an edit cut off is kept as well.
        texts += filter(None, [edit.good, edit.bad] if edit else ())
        values = self._values(texts)
        if not values:
            return draft

        def cleaned(text: str) -> str:
            return self._replace(text, values)

        fields: dict[str, Any] = {
            name: cleaned(text)
            for name in ("question", "answer", *_BESIDE)
            if (text := getattr(answer, name))
        }
        # A document may be called after the person it is about.
        fields["passages"] = tuple(
            Passage(id=cleaned(passage.id), text=cleaned(passage.text))
            for passage in answer.passages
        )
        fields["messages"] = tuple(message.rewritten(cleaned) for message in answer.messages)
        scrubbed: LoggedAnswer = answer.model_copy(update=fields)
        if edit is not None:
            told = {name: text and cleaned(text) for name, text in edit.model_dump().items()}
            edit = Edit(**told)
        return Draft(scrubbed, draft.good and cleaned(draft.good), draft.source, edit)

    def _values(self, texts: Iterable[str]) -> list[str]:
        """Return the personal values in texts, the longest first."""
        values: set[str] = set()
        for text in dict.fromkeys(texts):
            results = self._analyzer.analyze(
                text, language="en", entities=list(ENTITIES), score_threshold=SCORE
            )
            # Of two kinds for one place the surer one names it.
            for result in sorted(results, key=lambda r: (-r.score, r.start - r.end)):
                value = text[result.start : result.end].strip()
                if ")" not in value:  # of "(+49 170 1234567)" only the number
                    value = value.lstrip("(")
                if value:
                    self._placeholder(value, result.entity_type)
                    values.add(value)
        return sorted(values, key=lambda value: (-len(value), value))

    def _placeholder(self, value: str, kind: str | None = None) -> str:
        # "+49 170 1234567" and "+491701234567" are one number.
        key = (value if "@" in value else re.sub(r"[\s()./-]", "", value)).casefold()
        if key not in self._placeholders and kind is not None:
            self.found[kind] += 1
            self._placeholders[key] = f"<{kind}_{self.found[kind]}>"
        return self._placeholders[key]

    def _replace(self, text: str, values: Iterable[str]) -> str:
        for value in values:
            whole = rf"(?<!\w){re.escape(value)}(?!\w)"
            text = re.sub(whole, self._placeholder(value), text)
        return text

    @cached_property
    def _analyzer(self) -> Any:
        with from_extra("scrub", "scrubbing needs presidio-analyzer"):
            import spacy
            import tldextract
            from presidio_analyzer import AnalyzerEngine, RecognizerRegistry
            from presidio_analyzer import predefined_recognizers as known
            from presidio_analyzer.nlp_engine import SpacyNlpEngine
        # By default tldextract fetches the list of domains over the network.
        extract = tldextract.TLDExtract(suffix_list_urls=())

        class Email(known.EmailRecognizer):
            def validate_result(self, pattern_text: str) -> bool:
                return bool(extract(pattern_text).fqdn)

        recognisers = [
            Email(),
            known.CreditCardRecognizer(),
            known.CryptoRecognizer(),
            known.IbanRecognizer(),
            known.IpRecognizer(),
            known.MacAddressRecognizer(),
            known.PhoneRecognizer(),
            known.NhsRecognizer(),
            known.UsSsnRecognizer(),
        ]
        words = spacy.blank("en")

        @spacy.language.Language.component("words_as_lemmas")
        def words_as_lemmas(doc: Any) -> Any:
            # Recognisers look for words such as "social security" among the lemmas around a value.
            for token in doc:
                token.lemma_ = token.lower_
            return doc

        words.add_pipe("words_as_lemmas")
        engine: Any = SpacyNlpEngine(models=[{"lang_code": "en", "model_name": "blank"}])
        engine.nlp = {"en": words}
        return AnalyzerEngine(
            registry=RecognizerRegistry(recognizers=recognisers, supported_languages=["en"]),
            nlp_engine=engine,
            supported_languages=["en"],
        )
