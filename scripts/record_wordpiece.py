"""Record token ids of the reference tokenizer, for `tests/unit/test_wordpiece.py`.

    pip install --no-deps tokenizers
    python scripts/record_wordpiece.py models/vocab.txt > tests/data/wordpiece.json

The file carries the part of the vocabulary that these texts can touch (every entry that occurs
inside one of their words), so that the test needs no model.
"""

import json
import sys
from pathlib import Path

import tokenizers
from tokenizers import models, normalizers, pre_tokenizers, processors

TEXTS = [
    "",
    " ",
    "\n\t\r\n",
    "a",
    "?!",
    "The quick brown fox jumps over the lazy dog.",
    "Unaffable, antidisestablishmentarianism & floccinaucinihilipilification",
    "don't can't won't it's o'clock rock'n'roll",
    "state-of-the-art e-mail co-operate re-entry",
    "3.14159 1,000,000 50% $19.90 €20 £5 ¥300 ₹100 №5 §12",
    "2024-11-22T14:25:03Z +49 (0)30 1234-5678",
    "user@example.com https://example.com/a/b?q=1&r=2#frag",
    "snake_case camelCase PascalCase kebab-case SCREAMING_CASE",
    "def f(x: int) -> str:\n    return f'{x!r}' # note",
    "SELECT * FROM t WHERE a <= 10 AND b <> 'x';",
    "C:\\Windows\\System32 /usr/local/bin ~/.config",
    "[CLS] and [SEP] and [MASK] and [UNK] and [PAD] are text here",
    "[unused1] ##ing ##s",
    "x" * 100,
    "y" * 101,
    "z" * 300 + " end",
    "a" * 99 + "b" + " c",
    "naïve café résumé façade jalapeño über Ångström crème brûlée",
    "nai\u0308ve cafe\u0301 re\u0301sume\u0301 combining marks",
    "e\u0301\u0323\u0327 stacked \u0323\u0301e marks first",
    "İstanbul'da ığdır IĞDIR ışık",
    "ΑΣ ΟΔΟΣ ὈΔΥΣΣΕΎΣ final sigma ς Σ σ",
    "Straße STRASSE ẞ groß Weißbier",
    "ﬁ ﬂ ﬃ ligatures ﬆ",
    "ＦＵＬＬＷＩＤＴＨ ｌｅｔｔｅｒｓ １２３ ！？",
    "ℌ ℵ ℝ ™ ® © ½ ⅓ ² ³ ₂ Ⅳ",
    "Æsop Œuvre ø Ø đ Đ ł Ł þ ð ß",
    "Wie kündige ich meinen Vertrag fristgerecht?",
    "Donaudampfschifffahrtsgesellschaftskapitän",
    "¿Cómo puedo cancelar mi suscripción? ¡Ya!",
    "Pourquoi le ciel est-il bleu ? L'été, « guillemets ».",
    "Perché il cielo è azzurro? Città, virtù, così.",
    "Porque é que o céu é azul? Ação, coração, não.",
    "Waarom is de lucht blauw? Coöperatie, ’s avonds.",
    "Varför är himlen blå? Åäö ÅÄÖ.",
    "Hvorfor er himmelen blå? Æøå.",
    "Miksi taivas on sininen? Hyvää yötä.",
    "Dlaczego niebo jest niebieskie? Zażółć gęślą jaźń.",
    "Proč je nebe modré? Příliš žluťoučký kůň.",
    "Miért kék az ég? Árvíztűrő tükörfúrógép.",
    "De ce este cerul albastru? Țară, știință, învățământ.",
    "Gökyüzü neden mavidir? Çağrı, şeker, öğüt.",
    "Tại sao bầu trời màu xanh? Tiếng Việt có dấu.",
    "Mengapa langit berwarna biru?",
    "Bakit asul ang langit?",
    "Kwa nini anga ni bluu?",
    "Kial la ĉielo estas blua? Ĝis, ŝi, ĵus.",
    "Pam mae'r awyr yn las? Ŵyr, tŷ.",
    "Af hverju er himinninn blár? Þétt, ðað.",
    "Почему небо голубое? Ёлка, йод, щука.",
    "Чому небо блакитне? Їжак, ґанок, є.",
    "Защо небето е синьо?",
    "Зашто је небо плаво? Љубав, њива.",
    "Γιατί ο ουρανός είναι γαλάζιος; Άνθρωπος.",
    "לָמָּה הַשָּׁמַיִם כְּחֻלִּים? שלום עולם",
    "لماذا السماء زرقاء؟ مَرْحَبًا بِالعَالَم، ١٢٣.",
    "چرا آسمان آبی است؟ می‌خواهم",
    "آسمان نیلا کیوں ہے؟",
    "आसमान नीला क्यों है? नमस्ते दुनिया।",
    "আকাশ নীল কেন? বাংলা ভাষা।",
    "வானம் ஏன் நீலமாக இருக்கிறது?",
    "ఆకాశం నీలంగా ఎందుకు ఉంటుంది?",
    "ಆಕಾಶ ಏಕೆ ನೀಲಿ?",
    "ആകാശം നീലനിറമാകുന്നത് എന്തുകൊണ്ട്?",
    "ආකාශය නිල් ඇයි?",
    "ทำไมท้องฟ้าถึงเป็นสีฟ้า สวัสดี",
    "ເປັນຫຍັງທ້ອງຟ້າຈຶ່ງເປັນສີຟ້າ",
    "ဘာကြောင့် ကောင်းကင်က ပြာတာလဲ",
    "ហេតុអ្វីបានជាមេឃពណ៌ខៀវ",
    "为什么天空是蓝色的？因为瑞利散射。",
    "為什麼天空是藍色的？",
    "なぜ空は青いのですか。カタカナ、ひらがな、漢字。",
    "ｶﾀｶﾅ half width ガギグ パピプ",
    "하늘은 왜 파란가요? 대한민국",
    "\u1112\u1161\u11ab\u1100\u1173\u11af conjoining jamo",
    "რატომ არის ცა ლურჯი? ᲡᲐᲥᲐᲠᲗᲕᲔᲚᲝ",
    "Ինչու՞ է երկինքը կապույտ։ Հայաստան",
    "ሰማይ ለምን ሰማያዊ ነው?",
    "Тэнгэр яагаад хөх вэ? ᠮᠣᠩᠭᠣᠯ",
    "བོད་ཡིག དབྱངས།",
    "ᏣᎳᎩ Cherokee ꭰꭱ",
    "mixed 中文 and English文字 in一line",
    "日本2024年11月22日 PPM1D是什么",
    "\u4e00\u9fff\u3400\uf900\U00020000\U0002a6df ideographs",
    "emoji 😀 👩‍👩‍👧‍👦 🇩🇪 ☕️ ❤️ 👍🏽 end",
    "math ∑ ∫ √ ≤ ≥ ≠ ∞ α+β=γ x² H₂O 10⁻³ µm μm",
    "arrows → ← ⇒ boxes ■ □ ▪ bullets • ‣ ·",
    "quotes “a” ‘b’ „c“ «d» ‹e› dashes – — ― − ellipsis …",
    "zero\u200bwidth soft\u00adhyphen word\u2060joiner bom\ufeff end",
    "nbsp\u00a0here thin\u2009space ideographic\u3000space line\u2028sep para\u2029sep",
    "control\x00null \x07bell \x0bvt \x0cff \x1fus \x7fdel \x85nel end",
    "replacement \ufffd private \ue000 tag \U000e0041 end",
    "rtl \u202bmark\u202c and \u200elrm\u200f",
    "vs\ufe0f variation \ufe0e selectors",
    "tabs\tand\nnew\r\nlines   many    spaces ",
    "~`!@#$%^&*()_+-={}[]|\\:;\"'<>,.?/",
    "...---... ,,, ''' \"\"\" ***",
    "\u037e Greek question mark and \u1fef varia",
    "ǅ ǆ Ǆ titlecase ŉ ǰ",
    "K Å Ω kelvin angstrom ohm signs",
    "𝒜𝓁𝓅𝒽𝒶 𝟏𝟐𝟑 mathematical letters",
    "unassigned \u0378 \U000e0fff stays in word\u0378word",
    "S-nitrosylated GAPDH physiologically transnitrosylates histone deacetylases.",
    "Mercaptopurine methyltransferase (TPMT) TNF-α IL-1β CD4+ T-cells p53 −/− mice",
    "kubectl get pods --all-namespaces -o jsonpath='{.items[*].metadata.name}'",
    "Lorem ipsum dolor sit amet, consectetur adipiscing elit.",
]


def reference(vocabulary: dict[str, int]) -> tokenizers.Tokenizer:
    """BERT's uncased tokenizer; no special token is registered, so `[SEP]` in a text is text."""
    model = models.WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=100)
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    ends = (("[SEP]", vocabulary["[SEP]"]), ("[CLS]", vocabulary["[CLS]"]))
    tokenizer.post_processor = processors.BertProcessing(*ends)
    return tokenizer


def main(vocabulary_path: Path) -> None:
    """Print the JSON file."""
    lines = vocabulary_path.read_text(encoding="utf-8").rstrip("\n").split("\n")
    vocabulary = {token: i for i, token in enumerate(lines)}
    tokenizer = reference(vocabulary)
    words = set()
    for text in TEXTS:
        normal = tokenizer.normalizer.normalize_str(text)
        words |= {word for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(normal)}
    inside = {w[i:j] for w in words for i in range(len(w)) for j in range(i + 1, len(w) + 1)}
    kept = {
        token: i
        for token, i in vocabulary.items()
        if token.removeprefix("##") in inside or token in {"[UNK]", "[CLS]", "[SEP]"}
    }
    recorded = {
        "made_by": "scripts/record_wordpiece.py",
        "reference": f"tokenizers {tokenizers.__version__}",
        "vocabulary": kept,
        "cases": [{"text": text, "ids": tokenizer.encode(text).ids} for text in TEXTS],
    }
    json.dump(recorded, sys.stdout, ensure_ascii=True, separators=(",", ":"))
    sys.stdout.write("\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
