"""Tables in Markdown, which are readable on a terminal as well."""

from collections.abc import Sequence


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns a Markdown table.

    Args:
      header: titles of the columns.
      rows: the cells of each row, as many as there are columns. A bar in a cell is escaped.
    """
    lines = ([cell.replace("|", "\\|") for cell in cells] for cells in (header, ["---"] * len(header), *rows))
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
