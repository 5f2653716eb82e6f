"""Words for views, body parts and species in fourteen languages."""

from __future__ import annotations

import tomllib
from importlib.resources import files
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preread.core.errors import SettingsError
from preread.core.text import vocabulary
from preread.core.text.vocabulary import Vocabulary, Words, extended, fold, parse, read_file, standard

WORDS = Words.model_validate(
    tomllib.loads(files("preread.core.text").joinpath("vocabulary.toml").read_text(encoding="utf-8"))
)

LATERAL = {
    "English": "CHEST_LAT, Chest lateral, LLAT, cross-table, LL, l-l",
    "Spanish": "Torax perfil, lateral, latero-lateral, tórax de perfil",
    "Portuguese": "TORAX PERFIL, perfil, tórax lateral",
    "French": "THORAX PROFIL, de profil, latéral, profil gauche",
    "German": "Thorax_seitlich, Thorax seitl., Seitaufnahme, Thorax LL, seitenansicht",
    "Italian": "RX TORACE L-L, latero-laterale, torace laterale",
    "Dutch": "thorax zijdelings, thorax dwars, zijopname",
    "Polish": "Klatka boczne, boczna, bok",
    "Czech": "plíce boční, bočná, bočně",
    "Turkish": "akciğer yan, yan grafi, yandan",
    "Swedish": "lungor sidobild, lateral, sidoprojektion",
    "Finnish": "thorax sivu, sivukuva, lateraalinen",
    "Chinese": "胸部侧位, 側位, 左侧位",
    "Japanese": "胸部側面, 側面像, 側面",
}
OBLIQUE = {
    "English": "OBLIQUE, RAO, lpo, obl",
    "Spanish": "oblicua, OBLICUO",
    "Portuguese": "oblíqua, OBLIQUO",
    "French": "oblique, trois quarts",
    "German": "schräg, SCHRAEG, Schrägaufnahme",
    "Italian": "obliqua, OBLIQUO",
    "Dutch": "schuin, schuine",
    "Polish": "skośne, SKOSNA",
    "Czech": "šikmá, sikmy",
    "Turkish": "oblik, eğik",
    "Swedish": "sned, snedbild",
    "Finnish": "viisto, viistokuva, vino",
    "Chinese": "斜位, 胸部斜位",
    "Japanese": "斜位像, 斜位",
}
CHEST = {
    "English": "CHEST, CHST, CXR, lungs, NON GRID CHEST, chest1, PORTABLE_CHEST",
    "Spanish": "TÓRAX, TORAX, pecho, pulmones, caja torácica",
    "Portuguese": "PULMAO, pulmões, tórax, peito, caixa torácica",
    "French": "thorax, poumons, poitrine, cage thoracique",
    "German": "BRUSTKORB, Thorax, Lunge, Brust, Thoraxaufnahme, Herz-Lunge",
    "Italian": "TORACE, polmoni, rx torace, petto",
    "Dutch": "BORST, borstkas, longen, thorax",
    "Polish": "KLATKA PIERSIOWA, płuca, klatki piersiowej, kl. p.",
    "Czech": "HRUDNIK, hrudník, plíce, hrudníku",
    "Turkish": "TORAKS, göğüs, GOEGUES, akciğer, toraks",
    "Swedish": "bröstkorg, BROESTKORG, lungor, lungröntgen",
    "Finnish": "rintakehä, keuhkot, keuhkokuva, thorax",
    "Chinese": "胸部, 胸片, 胸腔, 肺",
    "Japanese": "胸部, 胸部正面, 肺野",
}
OTHER_PARTS = {
    "SPINE": "THORACIC VERT, T-SPINE, TSPINE, BRUST-WS, BWS, RACHIS THORAC, rachide dorsale, columna torácica, coluna, "
    "hrudní páteř, kręgosłup piersiowy, torakal omurga, bröstrygg, rintaranka, 胸椎, 腰椎, wervelkolom, Wirbelsäule",
    "ABDOMEN": "ABDOMEN, KUB, Bauch, ventre, vientre, addome, buik, brzuch, břicho, KARIN, buk, vatsa, 腹部, barriga",
    "RIBS": "RIBS, Rippen, côtes, costillas, costelas, coste, ribben, żebra, žebra, kaburga, revben, kylkiluut, 肋骨, "
    "Hemithorax, Rippenthorax, knöcherner Thorax, sternum",
    "LOWER_LIMB": "FEMUR, FEMORE LUNGO, KNEE, Knie, genou, rodilla, joelho, ginocchio, kolano, koleno, diz, knä, "
    "polvi, 膝, 股骨, Oberschenkel, LEFT_KNEE_AP, foot, Fuß",
    "PELVIS": "PELVIS, HIP, Becken, bassin, cadera, bacino, bekken, miednica, pánev, kalça, bäcken, lantio, 骨盆, 骨盤",
    "UPPER_LIMB": "HAND, Handgelenk, main, mano, mão, dłoń, ruka, parmak, handled, käsi, 手, SHOULDER, Schulter, "
    "épaule, hombro, ombro, spalla, schouder, bark, rameno, omuz, axel, olkapää, 肩, EXTREMITY, EXTREMETY",
    "HEAD_AND_NECK": "SKULL, Schädel, SCHAEDEL, crâne, cráneo, crânio, cranio, schedel, czaszka, lebka, KAFATASI, "
    "skalle, kallo, 头颅, 頭部, NECK, SINUSES",
    "WHOLE_BODY": "BABYGRAM, whole body, Ganzkörper, corps entier, cuerpo entero, 全身",
    "BREAST": "BREAST, MAMMO",
}
NO_WORD = "ZZZZ, LUNGO, LUNGA, Quux, bilateral infiltrates, Manchester, ROCHESTER"


def each(table: dict[str, str]) -> list[tuple[str, str]]:
    return [(key, word.strip()) for key, words in table.items() for word in words.split(",")]


@pytest.mark.parametrize("language, text", each(LATERAL))
def test_lateral_views(language: str, text: str) -> None:
    assert standard().read_view(text).names == {"LATERAL"}, language
    assert standard().read_view_position(text).names == {"LATERAL"}, language


@pytest.mark.parametrize("language, text", each(OBLIQUE))
def test_oblique_views(language: str, text: str) -> None:
    assert standard().read_view(text).names == {"OBLIQUE"}, language


@pytest.mark.parametrize(
    "name, text",
    each(
        {
            "DECUBITUS": "DECUB, LLD, RLD, Seitenlage, décubitus latéral, decúbito lateral, zijligging, 侧卧位",
            "LORDOTIC": "LORDOTIC, lordótica, Lordose, apical, 前弓位",
            "AP": "AP, A.P., antero-posterior, A/P, AP Bett, AP decúbito supino, AP_SUPINE, 前后位, CHEST_AP, ap1",
            "PA": "PA, P.A., postéro-antérieur, PA stehend, 后前位, ThoraxPA, CHESTPA, PA/ERECT",
            "FRONTAL": "FRONTAL, de face, de frente, czołowe, 正位, 正面",
        }
    ),
)
def test_other_and_frontal_views(name: str, text: str) -> None:
    assert standard().read_view(text).names == {name}


@pytest.mark.parametrize("text", ["L", "R", "profile", "quer", "Dec"])
def test_words_that_name_a_view_in_view_position_only(text: str) -> None:
    assert standard().read_view_position(text).matches
    assert not standard().read_view(f"chest {text}").matches
    assert standard().read_view_position(f"AP {text}").names == {"AP"}


@pytest.mark.parametrize("text", ["", "bilateral infiltrates", "supine", "Dec 2020", "decúbito dorsal", "unilateral"])
def test_no_view(text: str) -> None:
    assert not standard().read_view(text).matches


@pytest.mark.parametrize("language, text", each(CHEST))
def test_the_chest(language: str, text: str) -> None:
    assert standard().read_part(text).names == {"CHEST"}, language


@pytest.mark.parametrize("name, text", each(OTHER_PARTS))
def test_other_parts_are_not_the_chest(name: str, text: str) -> None:
    names = standard().read_part(text).names
    assert name in names
    assert names != {"CHEST"}


@pytest.mark.parametrize("text", NO_WORD.split(", "))
def test_words_that_are_not_listed(text: str) -> None:
    assert not standard().read_part(text).matches
    assert standard().read_part(text).rest or "chester" in text.lower()


def test_a_part_inside_another_one_is_named_alone_only() -> None:
    assert standard().read_part("CHEST RIBS").names == {"CHEST"}
    assert standard().read_part("Thorax, Herz").names == {"CHEST"}
    assert standard().read_part("HEART").names == {"HEART"}
    assert standard().read_part("CHESTABDOMEN").names == {"CHEST", "ABDOMEN"}


@pytest.mark.parametrize(
    "text",
    [
        *(None, "", " ", "-", "***", "0", "N/A", "n.a.", "NONE", "UNKNOWN", "Unknown_1", "XX", "DEFAULT", "Default2"),
        *("null", "unbekannt", "inconnu", "desconocido", "sconosciuto", "onbekend", "nieznane", "未知", "不明"),
    ],
)
def test_values_that_stand_for_none(text: str | None) -> None:
    assert standard().is_absent(text)


@pytest.mark.parametrize("text", ["CHEST", "7", "2 VIEWS", "ICU", "no chest"])
def test_values_that_stand_for_something(text: str) -> None:
    assert not standard().is_absent(text)


def test_codes_of_both_code_systems() -> None:
    assert [standard().view_of(code) for code in ("399348003", "r-10214", "R-102CD", "399067008")] == [
        "AP",
        "PA",
        "LATERAL",
        "LATERAL",
    ]
    assert [standard().part_of(code) for code in ("51185008", "t-d3000", "T-D9200", "38266002")] == [
        "CHEST",
        "CHEST",
        "LOWER_LIMB",
        "WHOLE_BODY",
    ]
    assert standard().species_of("L-85B00") == "HUMAN"
    assert standard().view_of("1") is None


@pytest.mark.parametrize("text", ["Homo sapiens", "HUMAN", "Mensch", "humain", "insan", "人"])
def test_people(text: str) -> None:
    assert standard().read_species(text).names == {"HUMAN"}


@pytest.mark.parametrize("text", ["CANINE_THORAX_VD", "Tierklinik am Ring", "Clinique vétérinaire", "动物医院"])
def test_animals_in_descriptions(text: str) -> None:
    assert standard().names_animal(text)
    assert not standard().names_animal("Veterans Hospital, Chest AP")


# --------------------------------------------------------------------------- folding

_SEPARATORS = st.text(" _-./0123456789", min_size=1, max_size=3)
_MARKS = st.sampled_from(["", "", "\u0301", "\u0308", "\u030a"])


def _plain(section: dict[str, vocabulary.Section]) -> list[tuple[str, str]]:
    return sorted({(name, word.rstrip("*")) for name, one in section.items() for word in one.words})


@given(data=st.data(), listed=st.sampled_from(_plain(WORDS.view)), around=st.tuples(_SEPARATORS, _SEPARATORS))
def test_case_accents_digits_and_separators_do_not_matter(
    data: st.DataObject, listed: tuple[str, str], around: tuple[str, str]
) -> None:
    _, word = listed
    expected = standard().read_view(word)
    letters = []
    for letter in word:
        if letter == " ":
            letters.append(data.draw(_SEPARATORS))
        else:
            cased = data.draw(st.sampled_from([letter.lower(), letter.upper()]))
            letters.append(cased + (data.draw(_MARKS) if letter.isascii() else ""))
    written = around[0] + "".join(letters) + around[1]
    assert standard().read_view(written) == expected
    assert standard().read_part(written).names == standard().read_part(word).names


def test_each_word_is_found() -> None:
    views, parts = _plain(WORDS.view), _plain(WORDS.part)
    assert [one for one in views if standard().read_view(one[1]).names != {one[0]}] == []
    assert [one for one in parts if one[0] not in standard().read_part(one[1]).names] == []


def test_no_word_stands_for_two_things() -> None:
    for section in (WORDS.view, WORDS.part):
        names: dict[str, set[str]] = {}
        for name, word in sorted({(name, word) for name, one in section.items() for word in one.words}):
            names.setdefault(fold(word) + ("*" if word.endswith("*") else ""), set()).add(name)
        assert {word: found for word, found in names.items() if len(found) > 1} == {}


@pytest.mark.parametrize("first, second", [("ß", "ss"), ("Łódź", "lodz"), ("İ", "i"), ("DIŞ", "dis"), ("ﬁ", "fi")])
def test_letters_are_folded(first: str, second: str) -> None:
    assert fold(first) == second


@given(st.text(max_size=60))
def test_any_text_is_read(text: str) -> None:
    reading = standard().read_part(text)
    assert fold(fold(text)) == fold(text)
    assert set(" ".join((*reading.rest, *(match.words for match in reading.matches)))) <= set(fold(text)) | {" "}


# --------------------------------------------------------------------------- the site's words

SITE = """
[view.LATERAL]
words = ["kontur"]
codes = ["LAT-1"]
[part.CHEST]
words = ["melkas", "kopsai*"]
[part.LOWER_LIMB]
words = ["terd"]
[absent]
words = ["leer"]
"""


def test_a_site_adds_words() -> None:
    site = extended(SITE)
    assert site.read_view("Thorax_KONTUR2").names == {"LATERAL"}
    assert site.view_of("lat-1") == "LATERAL"
    assert site.read_part("MELKAS").names == site.read_part("kopsaites").names == {"CHEST"}
    assert site.read_part("THORAX").names == {"CHEST"}
    assert site.is_absent("LEER")
    assert not standard().read_view("kontur").matches
    assert extended("  ") is standard()


def test_a_sites_word_replaces_one_that_ships() -> None:
    site = extended('[part.PELVIS]\nwords = ["kind"]\n[view.AP]\nwords = ["quer"]\n')
    assert site.read_part("kind").names == {"PELVIS"}
    assert site.read_view_position("quer").names == {"AP"}


@pytest.mark.parametrize(
    "text, message",
    [
        ("[view", "is not TOML"),
        ("[views.AP]\nwords = []", "views: Extra inputs are not permitted"),
        ('[view.AP]\nword = ["x"]', "view.AP.word: Extra inputs"),
        ("[view.ap]\nwords = []", "view.ap"),
        ('[view.AP]\nwords = "ap"', "view.AP.words"),
        ('[view.AP]\nwords = ["12"]', "the word '12' has no letter"),
        ('[view.AP]\nwords = ["a*p"]', "a * is allowed only at the end"),
        ("[species.ROBOT]\nwords = []", "there is no species ROBOT"),
        ('[view.AP]\nwords = [""]', "view.AP.words.0"),
    ],
)
def test_an_invalid_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "words.toml"
    path.write_text(text)
    with pytest.raises(SettingsError, match=r"words\.toml") as caught:
        read_file(path)
    assert message in str(caught.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be read: No such file"):
        read_file(tmp_path / "none.toml")
    path = tmp_path / "words.toml"
    path.write_bytes(b"# \xff\n")
    with pytest.raises(SettingsError, match="is not UTF-8"):
        read_file(path)
    path.write_text("#" * (vocabulary.MAX_FILE_BYTES + 1))
    with pytest.raises(SettingsError, match=f"more than {vocabulary.MAX_FILE_BYTES} bytes"):
        read_file(path)
    assert read_file(None) == ""


def test_a_vocabulary_without_words_knows_none() -> None:
    empty = Vocabulary(parse(""))
    assert not empty.read_view("AP").matches
    assert not empty.read_part("CHEST").matches
    assert not empty.is_absent("N/A")
