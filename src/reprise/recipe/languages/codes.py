"""One code per language, whatever a file or a recipe calls it.

`zh-CN`, `zho_Hans`, `cmn_Hani`, `chi`, `wuu` and `yue` are all `zh`. The package langcodes finds it: 180 kB with its
tables (Babel: 11 MB, most of it for numbers and dates), typed, with the aliases of CLDR and of ISO 639.
"""

import functools
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, TypeVar

import langcodes
from langcodes import data_dicts
from langcodes.tag_parser import LanguageTagError
from pydantic import AfterValidator

Value = TypeVar("Value")

_UNDETERMINED = frozenset({"und", "mul", "zxx", "mis"})
"""Codes for an unknown language, or for text that has none."""
_HOME = {
    **{code: "zh" for code, macro in data_dicts.MACROLANGUAGES.items() if macro in ("zh", "zho")},
    "nb": "no",
    "sh": "sr",
}
"""Codes that ISO 639 separates and text collections do not: written Chinese is labelled with the codes of its spoken
varieties, and Norwegian Bokmål as Norwegian."""
_NAMES = {
    "afrikaans": "af", "albanian": "sq", "amharic": "am", "arabic": "ar", "armenian": "hy", "azerbaijani": "az",
    "basque": "eu", "belarusian": "be", "bengali": "bn", "bosnian": "bs", "bulgarian": "bg", "burmese": "my",
    "cantonese": "zh", "catalan": "ca", "chinese": "zh", "croatian": "hr", "czech": "cs", "danish": "da", "dutch": "nl",
    "english": "en", "estonian": "et", "farsi": "fa", "filipino": "fil", "finnish": "fi", "french": "fr",
    "galician": "gl", "georgian": "ka", "german": "de", "greek": "el", "gujarati": "gu", "hausa": "ha", "hebrew": "he",
    "hindi": "hi", "hungarian": "hu", "icelandic": "is", "igbo": "ig", "indonesian": "id", "irish": "ga",
    "italian": "it", "japanese": "ja", "kannada": "kn", "kazakh": "kk", "khmer": "km", "korean": "ko", "kurdish": "ku",
    "kyrgyz": "ky", "lao": "lo", "latin": "la", "latvian": "lv", "lithuanian": "lt", "macedonian": "mk",
    "malagasy": "mg", "malay": "ms", "malayalam": "ml", "mandarin": "zh", "marathi": "mr", "mongolian": "mn",
    "nepali": "ne", "norwegian": "no", "odia": "or", "pashto": "ps", "persian": "fa", "polish": "pl",
    "portuguese": "pt", "punjabi": "pa", "romanian": "ro", "russian": "ru", "serbian": "sr", "sinhala": "si",
    "slovak": "sk", "slovenian": "sl", "somali": "so", "spanish": "es", "swahili": "sw", "swedish": "sv",
    "tagalog": "fil", "tamil": "ta", "telugu": "te", "thai": "th", "tibetan": "bo", "turkish": "tr", "ukrainian": "uk",
    "urdu": "ur", "uyghur": "ug", "uzbek": "uz", "vietnamese": "vi", "welsh": "cy", "xhosa": "xh", "yoruba": "yo",
    "zulu": "zu",
}  # fmt: skip
"""English names that collections use instead of codes."""

WITHOUT_SPACES = frozenset({"zh", "ja", "th", "lo", "km", "my", "bo", "dz", "shn", "mnw", "nod", "kht"})
"""Languages without spaces between words: shingles and rules use characters instead of words."""


@functools.lru_cache(maxsize=10_000)
def find_language(code: str) -> str | None:
    """The ISO 639-1 code of a language, else its ISO 639-3 code; None if `code` is not a language.

    Args:
        code: BCP 47 (`zh-CN`), ISO 639 in two or three letters, with a script (`zho_Hans`), or an English name. Region
            and script are dropped: use the source to distinguish text of one language in two scripts.
    """
    code = re.split("[.@]", code.strip())[0]  # a locale: zh_CN.UTF-8, sr@latin
    if name := _NAMES.get(code.casefold()):
        return name
    try:
        tag = langcodes.Language.get(langcodes.standardize_tag(code, macro=True))
    except LanguageTagError:
        return None
    language = tag.language
    if language is None or language in _UNDETERMINED or not tag.is_valid():
        return None
    return _HOME.get(language, language)


def is_undetermined(code: str) -> bool:
    """Whether a code means that the language is not known (`und`, `mul`, `zxx`, `mis`)."""
    return code.strip().casefold() in _UNDETERMINED


def normalise_language(code: str) -> str:
    """Like `find_language`, for settings.

    Raises:
        ValueError: `code` is not a language.
    """
    language = find_language(code)
    if language is None:
        raise ValueError(f"{code!r} is no language code; write one of ISO 639 or BCP 47, such as zh, tr or zho_Hans")
    return language


LanguageCode = Annotated[str, AfterValidator(normalise_language)]
"""A setting that names a language."""
OptionalLanguage = Annotated[str, AfterValidator(lambda code: normalise_language(code) if code else code)]
"""A setting that names a language, or is empty."""


def normalise_keys(
    given: Mapping[str, Value], normalise: Callable[[str], str] = normalise_language
) -> dict[str, Value]:
    """The same settings with normalised codes as keys.

    Args:
        given: language code -> setting.
        normalise: function that returns the normalised code of a key.

    Raises:
        ValueError: a key is not a language, or two keys are the same one.
    """
    normal: dict[str, Value] = {}
    names: dict[str, str] = {}
    for key, value in given.items():
        code = normalise(str(key))
        if code in normal:
            raise ValueError(f"{names[code]!r} and {key!r} are both the language {code!r}; keep one of them")
        normal[code], names[code] = value, key
    return normal


def normalise_path(path: str, names: Iterable[str]) -> str:
    """Normalise the entry in a path such as `zho_Hans/web`: `zh/web`, if `zh` is one of the names."""
    first, slash, rest = path.partition("/")
    names = set(names)
    if first in names:
        return path
    language = find_language(first)
    return f"{language}{slash}{rest}" if language in names else path
