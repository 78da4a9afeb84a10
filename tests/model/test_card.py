from llava_rad.model.card import put_section

CARD = "# Model\n\nText.\n\n## Looks?\n\nNot measured.\n\n## Training\n\nFacts.\n"


def test_a_section_takes_the_place_of_the_one_of_its_name():
    found = put_section(CARD, "## Looks?\n\nYes.\n")
    assert found == "# Model\n\nText.\n\n## Looks?\n\nYes.\n\n## Training\n\nFacts.\n"
    assert put_section(found, "## Looks?\n\nYes.\n") == found


def test_a_new_section_comes_last():
    assert put_section("# Model\n", "## Looks?\n\nYes.\n") == "# Model\n\n## Looks?\n\nYes.\n"
    last = "# Model\n\n## Looks?\n\nNo.\n"
    assert put_section(last, "## Looks?\n\nYes.\n") == "# Model\n\n## Looks?\n\nYes.\n"
