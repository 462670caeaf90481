import pytest
from hypothesis import given
from hypothesis import strategies as st

from reprise.documents.clean.personal_data import mask_personal_data
from reprise.recipe.documents import Clean


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("Write to jane.doe+news@mail.example.co.uk.", "Write to [mail]."),
        ("邮箱：zhang_san@qq.com，欢迎来信", "邮箱：[mail]，欢迎来信"),
        ("from 93.184.216.34 and 2606:4700:4700::1111", "from [ip] and [ip]"),
        ("电话13812345678或 138-1234-5678", "电话[phone]或 [phone]"),
        ("手机：+86 138 1234 5678。", "手机：[phone]。"),
        ("座机 010-62751234，热线 400-820-8820", "座机 [phone]，热线 [phone]"),
        ("call (202) 555-0143 or 202-555-0143", "call [phone] or [phone]"),
        ("call +44 20 7946 0958 today", "call [phone] today"),
        ("身份证号11010519491231002X。", "身份证号[id]。"),
    ],
)
def test_personal_data_is_masked(text, masked):
    assert mask_personal_data(text)[0] == masked
    assert sum(mask_personal_data(text)[1].values()) == masked.count("[")
    assert mask_personal_data(masked) == (masked, {})


@pytest.mark.parametrize(
    "text",
    [
        "Python 3.11.7, section 1.2.3.4, released 2021-03-04 at 10:30:15",
        "ISBN 978-7-111-21382-6, DOI 10.1145/3292500.3330701",
        "localhost is 127.0.0.1 or ::1; the net 192.168.0.1 is private",
        "π ≈ 3.14159265358979, 12345678901234567890 and 110105194912310021",
        "1998-2003年间，人口由1380万增至1520万，约占12.5%",
        "x = a[13812345678901] + b::c, std::vector::size, @decorator, user@host",
        "1,234,567.89 dollars; 100-200-300; 2020-2021; 0.13812345678",
    ],
)
def test_other_numbers_stay(text):
    assert mask_personal_data(text) == (text, {})


@given(st.text(alphabet="0123456789.-+:@ aX()年", max_size=60))
def test_any_text_is_masked_once(text):
    masked, counts = mask_personal_data(text)
    assert sum(counts.values()) == sum(masked.count(mask) for mask in ("[mail]", "[ip]", "[phone]", "[id]"))


@pytest.mark.parametrize(
    ("language", "text", "masked"),
    [
        ("ko", "주민번호 900101-1234567, 전화 010-1234-5678.", "주민번호 [id], 전화 [phone]."),
        ("ja", "電話は03-1234-5678です。", "電話は[phone]です。"),
        ("fr", "Appelez le 01 23 45 67 89, pas 2001 02 03.", "Appelez le [phone], pas 2001 02 03."),
        ("de", "Tel. 030 / 1234567, Seite 12/13", "Tel. [phone], Seite 12/13"),
        ("tr", "Telefon: 0532 123 45 67, yıl 2001", "Telefon: [phone], yıl 2001"),
        ("ru", "Звоните 8 (912) 345-67-89 до 18-00", "Звоните [phone] до 18-00"),
        ("pt", "CPF 123.456.789-09 e versão 1.2.3", "CPF [id] e versão 1.2.3"),
        ("es", "DNI 12345678Z, año 20010203", "DNI [id], año 20010203"),
        ("zh", "身分證A123456789。", "身分證[id]。"),
    ],
)
def test_the_patterns_of_a_pack_are_masked_in_its_language(language, text, masked):
    patterns = Clean().personal_data_of(language)
    assert mask_personal_data(text, patterns)[0] == masked
    assert mask_personal_data(masked, patterns) == (masked, {})
