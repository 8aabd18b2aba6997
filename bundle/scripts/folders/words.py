"""Words that tell the sequence of an image: in DICOM descriptions, and in names of files and folders."""

from __future__ import annotations

import re
import unicodedata

from scripts.folders.schemes import is_of_scheme

# Words in lower case with single spaces. In DICOM descriptions the beginning of a word is enough; names of files and
# folders, which hold names of patients, must hold the whole word.
T1 = r"t1(?!\d)|mp ?rage|bravo|spgr|\btfl|vibe|flash"
OTHERS = {
    "T2": r"t2(?!\d)",
    "FLAIR or STIR": r"\w*flair\w*|dark fluid|tirm|stir",
    "localizer": r"\bloc\b|locali[sz]\w*|scout|survey|plane",
    "diffusion": r"dwi|\badc|diff(?:usion)?|dti|trace|\bfa\b",
    "susceptibility": r"swi|swan|hemo|\bmag\b|\bpha\b|phase",
    "perfusion": r"perf(?:usion)?|\bdsc|\bdce|\basl|cbf|cbv|mtt|ttp|\bdyn(?:amic)?|ktrans",
    "angiography": r"\btof|mra\b|mrv\b|angio(?:graphy)?|venog(?:raphy)?",
    "subtraction or projection": r"\bm(in)?ip\b|subtr(?:action)?|\bsub\b",
    "functional or spectroscopy": r"bold|fmri|ep2d|spectro(?:scopy)?|\bsvs\b|\bpress\b",
    "gradient echo": r"\bgre\b",  # unless T1 is said
    "steady state": r"fiesta|\bciss\b|\bb ?[tf]fe|tru(?:e ?)?fi",
    "field map": r"field ?map\w*|\bb[01] ?map",
    "another part of the body": (
        r"spine|\bneck|\bc sp|orbit|pituit(?:ary)?|sella|\biac\b|cervi(?:cal)?|thora(?:x|cic)?|lumb(?:ar)?"
    ),
}
AGENT = r"(?:[ck]ontrast\w*|gad\w*|gd|km|ce|c|k|iv|mdc|inj(?!ur)\w*)\b"
EVENT = r"(?:op|surg|rt\b|rad|treat|tx\b|ther|chemo|biops|resec)"  # "before" may be of these
FAT = r"(?:fs|fat|sat)"  # "without" may be of it, "post" and "no" stand before it
# "-C", "(-C)", "C-", "GD (-)", "+/-". A hyphen joins words in "T1-Gd"; "T1-C" and "T1-KM" may mean minus.
MINUS = (
    rf"(?<![^ (/])- ?{AGENT}(?! ?\+| enh)|(?<!post)(?<!nach)(?<!mit)(?<!with)-(?:c|k|km)\b(?! ?\+)"
    rf"|\b{AGENT}(?:-(?![a-z0-9])| -$| ?\(-\))|\+ ?/ ?-|- ?/ ?\+"
)
NO = r"(?:no|non|not|none|nil|nein|nicht|nej|ikke|inte)"
ZERO = r"(?<![\d.,])0+(?:[.,]0+)?"
BEFORE = (
    rf"\b(?:pre|before|prior to|avant|antes|vor|voor|prima)(?:\b(?! {EVENT})|{AGENT})|\bminus\b(?: {AGENT})?"
    rf"|(?:w/?o|\b(?:without|ohne|sans|sin|senza|sem|zonder|bez))(?:\b(?! ?{FAT})|{AGENT})|\bkein|\bs/ ?{AGENT}"
    rf"|\b(?:o|pra|prae|utan|uden|uten) ?{AGENT}"
    rf"|\b(?:{NO}|{ZERO}) ?(?:{AGENT}|enh)|{ZERO} ?(?:ml|cc|mmol)|(?:\b|t1){AGENT} {NO}\b(?! ?{FAT})"
    r"|\b(?:no|non|pre)[ -]?con\b|\bnce\b|unenh|nativ|plain|\bneg"
    r"|(?:[ck]ontrast|gad|gd|km)\w* ?(?:frei|free|neg|los\b|s[iu]z\b|once)"
)
POST = rf"\bpost(?!er)(?! ?(?:{EVENT}|injur|trauma|gk|recon|proc))"  # of "post surgery" nothing is known
AFTER = rf"\+ ?(c|gd|km|ce|k|contrast)\b|{POST}|\bc\+|with c"
PERHAPS = (  # after contrast, unless a word of BEFORE is there
    r"\bgd|gad(?:o\w*)?|\bce\b|t1 ?ce|t1 ?c\b|t1 ?gd|\bm?km\b|[ck]ontrast|\benh(?:anced)?|dotarem|\bk\+"
)

# A word before that of an agent is one of these, or holds a digit. Any other may mean "without": o. KM, utan kontrast.
WITH = (
    r"m|mit|med|met|con|com|avec|apres|dopo|tras|despues|apos|pos|post\w*|nach|na|after|with|w|c|z|plus|and|und|et|y"
    rf"|{AGENT}|ml|cc|mmol|i v|(?<=\bi )v|{EVENT}\w*|gk|gamma|knife"
)
USUAL = (
    r"\S*\d\S*|ax\w*|sag\w*|[ck]or\w*|tra|trans\w*|obl\w*|t?se|f?fse|[tf]fe|f?gre|ir|mp ?r\w*|rage|bravo|f?spgr|vibe"
    r"|flash|lava|thrive|space|cube|vista|view|blade|turbo|spin|echo|fast|dixon|spir|spair|flair|dark|fluid|tirm|stir"
    r"|tfl|w?fs|fat\w*|sat\w*|we|water|weighted|w[it]|iso\w*|hr|high|res|thin|mm|std|late|delayed|nav\w*|neuro\w*"
    r"|stealth|brainlab|plan\w*|brain|head|whole|kopf|schadel|schaedel|hirn|crani\w*|cereb\w*|skull|strip\w*|reg\w*"
    r"|resamp\w*|norm\w*|bfc|corr\w*|baseline|follow\w*|up|preop|new|final|visit|day|week|month"
    r"|mtc?|propeller|me?mp\w*|m?dixon|flex|cut|vol\w*|tumou?r\w*|lesion|mass|glioma|gbm|routine|protocol|exam|study"
    r"|scan|image|mri?|stereo\w*|lab|grappa|caipi\w*|cs|speeder|proset|stand\w*|single|double|triple|dose|blood"
    r"|e[sg]|coupe|assiale|d|p"  # 3 d, p 2
)
BETWEEN = r"(?:iv|i v|inj\w*|medi\w*|admin\w*|sommin\w*|de|di|do|del|of|von)"  # nach Injektion von KM
NAMED = r"(?:[ck]ontrast|gad|gd|km\b|mdc\b|ce\b|enh)"
DOUBT = (
    rf"(?<![^\s/])(?!(?:{WITH}|{USUAL}|{BETWEEN})(?![^\s/]))[^\W\d_][^\s/]*(?:[ /]{BETWEEN})*[ /]{NAMED}"
    rf"|(?<![^\s/])(?!(?:{WITH}|{USUAL})(?:km|gd))[^\W\d_]+(?:km|gd)\b"
)

# In names of files and folders. There other words of OTHERS are names, or words of daily use: sub, phase, neck, plane.
SHORT = {kind: OTHERS[kind] for kind in ("T2", "FLAIR or STIR")}
SHORT |= {
    "diffusion": r"dwi|adc|dti",
    "susceptibility": "swi|swan",
    "perfusion": "perfusion|asl|dsc|dce|cbf|cbv|ktrans",
}
BESIDES = {"another kind of image": rf"pre(?! {EVENT})|ct|pet|pd|segm?|mask"}
CODE = 3  # letters, at most, of a hospital's code before a number: CT_001, PRE01
# T1 or T2 as a word, after a plane, or before further letters (T2tse). One letter more is a code (T2K), unless it is of
# BraTS (T2w, T2f) or contrast (T1c).
WEIGHTED = r"(?:ax|axial|sag|cor|tra|[23]d|\w*\d(?=t[12]$))?(t[12])([a-z]{2}\w*|[cfnw])?"


def plain(text: str) -> str:
    """A text in lower case without accents, its words apart by single spaces, and "minus" where a sign says so."""
    signs = bare(text).lower().translate({0x2013: "-", 0x2212: "-", 0xB1: "+/-"})  # dash, minus, plus or minus
    signs = re.sub(r"(?:[\s_;:^]|(?<!\d)[.,]|[.,](?!\d))+", " ", signs).strip()  # "0.9" stays a number
    words = re.sub(MINUS, lambda sign: f" minus {re.sub('[^a-z]', ' ', sign[0])} ", signs)
    return re.sub(r"[\s()-]+", " ", words).strip()


def bare(text: str) -> str:
    """A text without accents: prä is pra, før is for."""
    letters = unicodedata.normalize("NFKD", text.translate(str.maketrans("øØłŁıß", "oOlLis")))
    return "".join(letter for letter in letters if not unicodedata.combining(letter))


def sequence_told(name: str) -> tuple[str, str]:
    """The sequence that a name of a file or folder tells, "" if none, and the word that tells it.

    The sequence is flair, t1, t1ce or t2, or another kind of image.
    """
    if is_of_scheme(name):
        return "", ""
    text = split_words(bare(name))
    found = {kind: match for kind, words in (SHORT | BESIDES).items() if (match := whole(words, text))}
    t1 = whole(T1, text)
    before, after = re.search(BEFORE, f"{text}\n{plain(name)}", re.IGNORECASE), whole(f"{AFTER}|{PERHAPS}", text)
    if t1 and "T2" not in found:
        found.pop("FLAIR or STIR", None)  # T1 FLAIR is T1
        doubt = re.search(DOUBT, text[t1.start() :], re.IGNORECASE)  # before, words may be of a patient's name
        told = "t1" if before else "T1 or T1ce" if doubt else "t1ce" if after else "t1" if t1[0].lower() == "t1" else ""
        found |= {told: before or doubt or after or t1} if told else {}
    known = {"FLAIR or STIR": "flair", "T2": "t2"}
    for kind in (*known, *found):
        if kind in found and (kind in (*known, "t1", "t1ce") or not is_code(found[kind])):
            return known.get(kind, kind), found[kind][0].strip()
    return "", ""


def split_words(name: str) -> str:
    """The words of a name with single spaces: apart at signs, between letters and digits, and before capitals."""
    words: list[str] = []
    for part in re.split(r"[\W_]+|(?<=[a-z])(?=[A-Z])", re.sub(r"(?i)(?<=[\W_])ct1(?![^\W_])", "T1ce", name)):
        weighted = re.fullmatch(WEIGHTED, part, re.IGNORECASE)
        words += weighted.groups("") if weighted else re.findall(r"\d+|[^\W\d]+", part)
    return " ".join(filter(None, words))


def whole(words: str, text: str) -> re.Match[str] | None:
    """The first match of a pattern that stands between spaces."""
    return re.search(rf"(?<!\S)(?:{words})(?!\S)", text, re.IGNORECASE)


def is_code(word: re.Match[str]) -> bool:
    """Whether a word may be a hospital's code, before a number: CT 001."""
    return word.start() == 0 and len(word[0]) <= CODE and bool(re.match(r" \d", word.string[word.end() :]))
