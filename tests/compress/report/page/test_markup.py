"""Tables as markup."""

from compress.report.page.markup import table


def test_a_table_that_fits_names_its_cells_for_telephones_and_keeps_numbers_whole() -> None:
    made = table(("step", "drift"), [("a", "+0.5 (+0.1 to +0.9)")], caption="c", fits=True)
    assert '<td data-label="drift">+0.5 (+0.1\u00a0to\u00a0+0.9)</td>' in made
    assert 'class="scroll fits"' in made
