"""The report of many pairs says how many times as long the loops take."""

from bench import cohort


def test_the_page_has_ratios_of_medians() -> None:
    seconds = {cohort.COHORT: [9.0, 10.0, 12.0], cohort.COMMAND: [25.0, 20.0, 19.0], cohort.CALL: [15.0, 14.0, 99.0]}
    record = {"date": "", "size": 128, "pairs": 16, "rounds": 3, "machine": {}, "versions": {}, "seconds": seconds}
    lines = "\n".join(cohort.page(record)).splitlines()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    assert ["a loop over l2rfast register", "20.0", "0.800", "2.00", "1.7"] in rows
    assert ["a loop over the Python call", "15.0", "1.07", "1.50", "1.3"] in rows
